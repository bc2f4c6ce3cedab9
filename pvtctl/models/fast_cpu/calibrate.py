"""Measure on this machine which CPU kernels are faster than plain torch."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.io.machine import OthersShare
from pvtctl.models.backbones.base import Tap
from pvtctl.models.backbones.pvt import Pvt
from pvtctl.models.backbones.resnet import ResNet
from pvtctl.models.backbones.vit import Vit
from pvtctl.models.fast_cpu.choices import SWITCH, Choices, active, is_chosen, is_measured, is_off, remember, use, using
from pvtctl.models.fast_cpu.levers import lay_out, take
from pvtctl.models.fast_cpu.packed import packing_works
from pvtctl.models.fast_cpu.threads import other_numbers, own_threads, take_threads
from pvtctl.models.heads.dpt import Reassemble
from pvtctl.models.layers.attention import SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import PatchEmbed

SECONDS = 0.06
"""Of calls of each candidate of a case; at least MIN_CALLS."""
MIN_CALLS = 3
BUSY = 0.2
"""Share of the machine that other programs may use while it is measured."""
GAIN, LOSS = 0.97, 1.03
"""A kernel is taken when all cases together take at most GAIN of plain torch's time, and none more than LOSS of it."""
GAIN_OF_MODELS = 0.985
"""The same where the cases are whole models, whose times vary less."""


@dataclass(frozen=True)
class Timing:
    """Shortest times of one case, in milliseconds per call."""

    kernel: str
    case: str
    plain_ms: float
    fast_ms: float


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found."""

    choices: Choices
    timings: list[Timing]


class _Case:
    """A layer and its input, computed under different choices."""

    def __init__(self, name: str, layer: nn.Module, *inputs: Any, mode: str = "inference") -> None:
        self.name = name
        self._layer = layer.eval()
        self._inputs = inputs
        self._mode = mode

    def call(self, choices: Choices) -> Callable[[], object]:
        """One forward pass with `choices`; in the mode `training` also a backward pass, in `bf16` both under autocast."""
        with using(choices):
            layer = lay_out(take(copy.deepcopy(self._layer), choices), torch.device("cpu"))

        def run() -> None:
            if choices.threads:
                torch.set_num_threads(choices.threads)
            with using(choices):
                if self._mode == "inference":
                    with torch.inference_mode():
                        layer(*self._inputs)
                    return
                with torch.autocast("cpu", torch.bfloat16, enabled=self._mode == "bf16"):
                    out = layer(*self._inputs)
                if isinstance(out, tuple):  # tokens and their size
                    out = out[0]
                elif isinstance(out, list):  # maps, of which the last needs all layers
                    out = out[-1]
                out.float().square().mean().backward()

        return run


def calibrate(on_progress: Callable[[str], None] = lambda text: None) -> Calibration:
    """Time each kernel against plain torch, and other numbers of threads than torch's own; keep and take what is faster.

    It takes some 20 seconds on two cores, and no random numbers of the caller's. The cases are small models, layers of
    PVT-Small at 224 pixels, of a ViT-Base at 384 and of the heads. The result is kept for this processor, torch version and
    number of threads; where the cache folder cannot be written it holds for this process.

    Raises UsageError when PVTCTL_FAST_CPU=0 forbids all of them.
    """
    if is_off():
        raise UsageError(f"{SWITCH} is 0, which leaves every model plain", f"unset {SWITCH} to measure the CPU kernels")
    timings: list[Timing] = []
    before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            found = Choices()
            for title, step in _STEPS:
                on_progress(title)
                found = step(found, timings)
    finally:
        torch.set_num_threads(before)
    try:
        remember(found, [asdict(timing) for timing in timings])
        use(None)
    except OSError as error:
        use(found)
        on_progress(f"not kept: {error.strerror}")
    return Calibration(found, timings)


def calibrate_once(device: str, on_progress: Callable[[str], None], *, threads: int | None = None) -> None:
    """Measure this machine before `device` is used, unless it is not a CPU, was measured before, or the user has chosen
    (PVTCTL_FAST_CPU=0, `use`). Then use the number of threads that is fastest.

    Not in a process of torchrun, where others would measure at the same time, and not on a busy machine, where
    chance would decide. `threads`: the user's number, which stays; unset, torch's.
    """
    if device != "cpu" or is_chosen() or "LOCAL_RANK" in os.environ:
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        if not is_measured():
            _calibrate_if_idle(on_progress)
    finally:
        torch.set_num_threads(before)
    if threads is None:
        take_threads(active().threads)


def _calibrate_if_idle(on_progress: Callable[[str], None]) -> None:
    share = busy_share()
    if share <= BUSY:
        on_progress("measuring once which CPU kernels are fast here (some 20 seconds; `pvtctl doctor` shows them)")
        calibrate()
        return
    on_progress(
        f"{active()}: other programs use {share:.0%} of this machine, too much to measure which CPU kernels are "
        "fast here (when it is idle: pvtctl doctor --calibrate)"
    )


def busy_share(seconds: float = 0.2) -> float:
    """Share of this machine's CPU time that other programs use now; 0 where it cannot be read."""
    others = OthersShare([os.getpid()])
    time.sleep(seconds)
    return others.share() or 0.0


def _race(case: _Case, candidates: Sequence[Choices]) -> list[float]:
    """The shortest time of `case` with each candidate, in milliseconds; they take turns."""
    seconds = shortest_seconds([case.call(candidate) for candidate in candidates], SECONDS)
    return [1e3 * each for each in seconds]


def shortest_seconds(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The shortest time of each of `calls`, after an untimed call of each: for `seconds` of each, and at least MIN_CALLS times.

    They take turns of two calls, as threads of another library may still be awake in the first.
    """
    for call in calls:  # memory, threads and oneDNN's choice of a kernel
        call()
    best = [float("inf")] * len(calls)
    times, end = 0, time.perf_counter() + seconds * len(calls)
    while times < MIN_CALLS or time.perf_counter() < end:
        for at, call in enumerate(calls):
            for _ in range(2):
                start = time.perf_counter()
                call()
                best[at] = min(best[at], time.perf_counter() - start)
        times += 2
    return best


def _faster(
    kernel: str, plain: Choices, fast: Choices, cases: Sequence[_Case], timings: list[Timing], *, gain: float = GAIN
) -> bool:
    """Whether `fast` wins over all cases together and loses none. Where it seems to lose, both have another try."""
    measured = []
    for case in cases:
        times = _race(case, [plain, fast])
        if times[1] > LOSS * times[0]:
            times = [min(pair) for pair in zip(times, _race(case, [plain, fast]), strict=True)]
        measured.append(Timing(kernel, case.name, *times))
    timings += measured
    total = sum(each.fast_ms for each in measured) / sum(each.plain_ms for each in measured)
    return total <= gain and all(each.fast_ms <= LOSS * each.plain_ms for each in measured)


def _from_least(
    kernel: str, choice: str, cases: Iterable[tuple[int, _Case]], found: Choices, timings: list[Timing]
) -> Choices:
    """With the last value of `choice` that wins its case, of `cases` from large layers to small; those before win too."""
    for least, case in cases:
        plain, fast = (Choices(**(asdict(found) | {choice: value})) for value in (0, least))
        if not _faster(kernel, plain, fast, [case], timings):
            break
        found = fast
    return found


def _mlp(dim: int, ratio: int, tokens: int, batch: int = 1) -> _Case:
    return _Case(
        f"{batch}x{tokens}x{dim}, hidden {dim * ratio}", Mlp(dim, dim * ratio), _tokens(batch, tokens, dim), None
    )


def _tokens(batch: int, number: int, dim: int) -> Tensor:
    return torch.randn(batch, number, dim)


def _threads(found: Choices, timings: list[Timing]) -> Choices:
    """The number with which plain torch is fastest; the other steps use it."""
    cases = [_mlp(64, 8, 3136), _mlp(320, 4, 196, 8), _Case("1x128x64x64, 3x3", _conv(128), _map(1, 128, 64))]
    best = own = own_threads()
    for number in other_numbers():
        plain, fast = replace(found, threads=best), replace(found, threads=number)
        if _faster(f"{number} threads, not {best}", plain, fast, cases, timings):
            best = number
    torch.set_num_threads(best)
    return found if best == own else replace(found, threads=best)


def _packed(found: Choices, timings: list[Timing]) -> Choices:
    if not packing_works():
        return found
    # whole models: a single layer, called again and again, finds its weights in the cache
    resnet = ResNet(block="bottleneck", depths=(1, 1, 1, 1))
    vit = Vit(patch_size=16, embed_dim=768, depth=4, num_heads=12, image_size=384)
    shapes = ((1, 224), (4, 224), (1, 448))
    models = [("PVT", _small_pvt(), shapes), ("ViT", vit, ((1, 384),)), ("ResNet", resnet, shapes)]
    cases = [
        _Case(f"{batch}x3x{side}x{side}, {name}", model, torch.randn(batch, 3, side, side))
        for name, model, shapes in models
        for batch, side in shapes
    ]
    fast = replace(found, packed=True)
    return fast if _faster("packed weights", found, fast, cases, timings, gain=GAIN_OF_MODELS) else found


def _small_pvt() -> Pvt:
    """PVT-Small with one block in each stage."""
    return Pvt(
        embed_dims=(64, 128, 320, 512),
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),
        sr_ratios=(8, 4, 2, 1),
    )


def _mlps() -> list[_Case]:
    return [_mlp(64, 8, 3136), _mlp(64, 8, 3136, 8), _mlp(128, 8, 784, 8), _mlp(320, 4, 3800)]


def _joined_gelu(found: Choices, timings: list[Timing]) -> Choices:
    """Of two ways with packed weights the faster, whatever it gains."""
    if not found.packed:
        return found
    joined = replace(found, joined_gelu=True)
    measured = [Timing("GELU joined to the product", case.name, *_race(case, [found, joined])) for case in _mlps()]
    timings += measured
    return joined if sum(each.fast_ms - each.plain_ms for each in measured) < 0 else found


def _mlp_bytes(found: Choices, timings: list[Timing]) -> Choices:
    candidates = [found, *(replace(found, mlp_bytes=mib << 20) for mib in (1, 2, 4, 8))]
    cases = _mlps()
    times = [_race(case, candidates) for case in cases]
    by_time = sorted(range(1, len(candidates)), key=lambda at: sum(each[at] for each in times))
    for fast in (candidates[at] for at in by_time[:2]):
        if _faster(f"MLPs {fast.mlp_bytes >> 20} MiB at a time", found, fast, cases, timings):
            return fast
    return found


def _winograd(found: Choices, timings: list[Timing]) -> Choices:
    cases = ((n, _Case(f"1x{n}x64x64", _conv(n), _map(1, n, 64))) for n in (256, 128))
    return _from_least("Winograd's convolution", "winograd_from", cases, found, timings)


def _winograd_trained(found: Choices, timings: list[Timing]) -> Choices:
    cases = (
        (n, _Case(f"1x{n}x64x64, training", _conv(n), _map(1, n, 64).requires_grad_(), mode="training"))
        for n in (256, 128)
    )
    return _from_least("Winograd's convolution in training", "winograd_trained_from", cases, found, timings)


def _conv(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last))


def _map(batch: int, channels: int, side: int) -> Tensor:
    return torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)


def _folded_norms(found: Choices, timings: list[Timing]) -> Choices:
    cases = [
        _Case(
            f"1x{channels}x{side}x{side}, {kernel}x{kernel}", ConvNorm(channels, 128, kernel), _map(1, channels, side)
        )
        for channels, kernel, side in ((128, 3, 64), (256, 1, 64), (128, 1, 128))
    ]
    fast = replace(found, folded_norms=True)
    return fast if _faster("folded batch norm", found, fast, cases, timings) else found


def _onednn_products(found: Choices, timings: list[Timing]) -> Choices:
    if not packing_works():
        return found
    # a whole model here too: single layers gain or lose by chance, from one process to the next
    cases = [_Case("8x3x224x224, PVT, training", _small_pvt(), torch.randn(8, 3, 224, 224), mode="training")]
    fast = replace(found, onednn_products=True)
    kernel = "linear layers by oneDNN in training"
    return fast if _faster(kernel, found, fast, cases, timings, gain=GAIN_OF_MODELS) else found


def _patch_products(found: Choices, timings: list[Timing]) -> Choices:
    """The spatial reductions of stages 1 to 3 and the patch embedding of stage 2."""
    cases = []
    for dim, out, ratio, side in ((64, 64, 8, 56), (128, 128, 4, 28), (320, 320, 2, 14), (64, 128, 2, 56)):
        name = f"2x{dim}x{side}x{side} by {ratio}x{ratio}, training"
        x = _map(2, dim, side).requires_grad_()
        cases.append(_Case(name, PatchEmbed(dim, out, ratio, norm=False), x, mode="training"))
    fast = replace(found, patch_products=True)
    return fast if _faster("patch convolutions as products", found, fast, cases, timings) else found


def _split_readout(found: Choices, timings: list[Timing]) -> Choices:
    tap = Tap(_map(1, 768, 24), torch.randn(1, 1, 768))
    case = _Case("1x576x768", Reassemble(768, 256, 16, 16, "project"), tap)
    fast = replace(found, split_readout=True)
    return fast if _faster("DPT's readout in two parts", found, fast, [case], timings) else found


def _plain_from(found: Choices, timings: list[Timing]) -> Choices:
    """With the 49 keys of PVT's stages at 224."""
    cases = (
        (side**2 * 2 // 3, _Case(f"8x{side**2} queries, training", layer, tokens, (side, side), mode="training"))
        for dim, heads, side, ratio in ((64, 1, 56, 8), (128, 2, 28, 4))
        for layer, tokens in [(SpatialReductionAttention(dim, heads, ratio), _tokens(8, side**2, dim))]
    )
    return _from_least("written-out attention", "plain_from", cases, found, timings)


def _plain_bf16(found: Choices, timings: list[Timing]) -> Choices:
    case = _Case("2x197x192, bf16", SelfAttention(192, 3, qkv_bias=True), _tokens(2, 197, 192), None, mode="bf16")
    fast = replace(found, plain_bf16=True)
    return fast if _faster("written-out attention in bf16", found, fast, [case], timings) else found


def _split_queries(found: Choices, timings: list[Timing]) -> Choices:
    """Stages 1 and 3 for one image, of more keys than attention is written out for."""
    cases = []
    for dim, heads, ratio, (height, width) in ((64, 1, 8, (80, 120)), (320, 5, 2, (32, 48))):
        layer, tokens = SpatialReductionAttention(dim, heads, ratio), _tokens(1, height * width, dim)
        cases.append(_Case(f"1x{height * width} queries, training", layer, tokens, (height, width), mode="training"))
    fast = replace(found, split_queries=True)
    return fast if _faster("attention split by queries", found, fast, cases, timings) else found


_STEPS = (
    ("threads", _threads),
    ("linear layers and convolutions", _packed),
    ("GELU", _joined_gelu),
    ("MLPs", _mlp_bytes),
    ("3x3 convolutions", _winograd),
    ("batch norm", _folded_norms),
    ("linear layers in training", _onednn_products),
    ("3x3 convolutions in training", _winograd_trained),
    ("patch convolutions in training", _patch_products),
    ("DPT's readout", _split_readout),
    ("attention in training", _plain_from),
    ("attention in bf16", _plain_bf16),
    ("queries", _split_queries),
)
"""In this order: what a step finds is in use in the next."""
