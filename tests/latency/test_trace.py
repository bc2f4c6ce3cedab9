"""The parts of a model: which they are, that their times are the whole, and what each computes and moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.cost.counting import count
from pvtctl.latency import trace
from pvtctl.latency.ceilings import Ceilings
from pvtctl.latency.layers import TimedLayer, timed_layers
from pvtctl.latency.steps import build_step
from pvtctl.latency.trace import MODEL, OUTSIDE, LayerTrace
from pvtctl.models.fast_cpu import linears
from pvtctl.models.fast_cpu.choices import Choices, using

CPU = torch.device("cpu")


class Clock:
    """Time that passes in modules only."""

    def __init__(self) -> None:
        self.seconds = 0.0


class Work(nn.Module):
    """Takes `seconds`, and adds its weights."""

    def __init__(self, clock: Clock, seconds: float, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.clock, self.cost = clock, seconds

    def forward(self, x: Tensor) -> Tensor:
        self.clock.seconds += self.cost
        return x + self.weight


class Block(nn.Module):
    """Three parts, and half a second outside of them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.mix, self.norm, self.mlp = Work(clock, 3), nn.Sequential(Work(clock, 1)), Work(clock, 5)
        self.skip = nn.Identity()
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock.seconds += 0.5
        return x + self.mlp(self.norm(self.skip(self.mix(x))))


class Net(nn.Module):
    """A stem, two lists of blocks and a head that is not called through its module."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.stages = nn.ModuleList([nn.Sequential(Block(clock), Block(clock)), nn.Sequential(Block(clock))])
        self.head = nn.ModuleDict({"classes": nn.Linear(4, 7, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head["classes"](x)


def traced(clock: Clock, monkeypatch: pytest.MonkeyPatch, depth: int = 0) -> LayerTrace:
    monkeypatch.setattr(trace.time, "perf_counter", lambda: clock.seconds)
    model = Net(clock).eval()

    def step() -> object:
        clock.seconds += 7
        with torch.inference_mode():
            return model(torch.zeros(2, 3, 4))

    return LayerTrace(step, model, CPU, depth)


def test_parts_and_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = traced(Clock(), monkeypatch)
    seconds = {name: each for name, each in layers.seconds().items() if each}
    assert seconds == {
        "stages.0.0-1.mix": 6,
        "stages.0.0-1.norm": 2,
        "stages.0.0-1.mlp": 10,
        "stages.1.0.mix": 3,
        "stages.1.0.norm": 1,
        "stages.1.0.mlp": 5,
        "stages.0.0-1": 1,
        "stages.1.0": 0.5,
        OUTSIDE: 7,
    }
    rows = {row["name"]: row for row in layers.found}
    assert [name for name, row in rows.items() if row["rest"]][:2] == [OUTSIDE, MODEL]
    assert rows["stages.0.0-1.mix"]["calls"] == 2
    assert {"stem", "head.classes"} <= set(rows)  # what has no blocks is whole; what is not called is looked into


@pytest.mark.parametrize(
    ("depth", "parts"),
    [
        (1, {"stem", "stages.0", "stages.1", "head.classes"}),
        (2, {"stem.0-1", "stages.0.0-1.mix", "stages.0.0-1.norm", "head.classes"}),
        (9, {"stem.0-1", "stages.0.0-1.norm.0", "head.classes"}),
    ],
)
def test_a_depth_counts_names(depth: int, parts: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    layers = traced(Clock(), monkeypatch, depth)
    assert parts <= {row["name"] for row in layers.found if not row["rest"]}
    assert sum(layers.seconds().values()) == 7 + 3 * 9.5


def test_bytes_are_inputs_weights_and_outputs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row["name"]: row for row in traced(Clock(), monkeypatch).found}
    tokens = 4 * 2 * 3 * 4
    assert rows["stages.0.0-1.mix"]["bytes"] == 2 * (2 * tokens + 4 * 4)
    assert rows["head.classes"]["bytes"] == tokens + 4 * 7 * 4 + 4 * 2 * 3 * 7
    assert rows["stages.1.0.skip"]["bytes"] == 0
    assert rows["stages.1.0"]["bytes"] == 3 * tokens  # the addition's
    assert rows["stem"]["macs"] == 2 * 6 * 4 * 4
    assert rows["head.classes"]["macs"] == 6 * 4 * 7


def test_on_a_gpu_moments_are_events(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    waits: list[object] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.seconds

        def elapsed_time(self, end: Event) -> float:
            assert waits, "events are read after the device has finished"
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    layers = traced(clock, monkeypatch, 1)
    layers._device = torch.device("cuda")
    seconds = layers.seconds()
    assert seconds["stages.0"] == pytest.approx(19)
    assert sum(seconds.values()) == pytest.approx(7 + 3 * 9.5)
    assert len(waits) == 1


def built(backbone: str, head: str, **options: Any) -> tuple[Callable[[], object], nn.Module]:
    case = {"backbone": backbone, "head": head, "size": (64, 96), "batch_size": 2, "mode": "forward", "dtype": "fp32"}
    case |= {"engine": "torch", "channels_last": False, "num_classes": None, "output_stride": None, "options": ""}
    return build_step(case | options, CPU)


@pytest.mark.parametrize(
    ("backbone", "head"),
    [("pvt_v2_b0", "classifier"), ("timm:test_vit", "none"), ("resnet18", "retinanet"), ("pvt_v2_b0", "semantic_fpn")],
)
def test_multiply_adds_are_those_of_flops(backbone: str, head: str) -> None:
    layers = LayerTrace(*built(backbone, head), CPU)
    assert sum(row["macs"] for row in layers.found) == 2 * count(backbone, (64, 96), head=head).macs
    # of what `flops` counts, next to nothing is outside of the parts
    assert sum(row["macs"] for row in layers.found if row["rest"]) < 0.01 * sum(row["macs"] for row in layers.found)


@pytest.mark.parametrize("head", ["none", "retinanet"])
def test_layouts_are_those_of_prediction(head: str) -> None:
    """Heads are channels-last, ResNets where that is faster; with --channels-last everything is."""
    for chosen, options, expected in ((False, {}, False), (True, {}, True), (False, {"channels_last": True}, True)):
        with using(Choices(packed=chosen)):
            model: Any = built("resnet18@0.25", head, **options)[1]
        body = model if head == "none" else model.backbone
        assert body.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) is expected
        if head != "none":
            kernels = [each.weight for each in model.head.modules() if isinstance(each, nn.Conv2d)]
            assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_attention_and_mlp_of_a_stage_are_parts() -> None:
    names = {row["name"] for row in LayerTrace(*built("pvt_v2_b0", "none"), CPU).found if not row["rest"]}
    for part in ("patch_embed", "norm", *(f"blocks.0-1.{name}" for name in ("norm1", "attn", "norm2", "mlp"))):
        assert f"stages.2.{part}" in names
    assert not [name for name in names if "fc1" in name]


def test_layers_keep_their_fast_kernels_while_they_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    step, model = built("deit_tiny_patch16", "none")
    layers = LayerTrace(step, model, CPU, 9)
    used: list[bool] = []
    whole = linears.linear
    monkeypatch.setattr(linears, "linear", lambda *given, **options: used.append(True) or whole(*given, **options))
    step()
    plain = len(used)
    layers.seconds()
    assert plain > 0
    assert len(used) == 2 * plain


def test_no_hooks_are_left() -> None:
    step, model = built("pvt_v2_b0", "none")
    LayerTrace(step, model, CPU).seconds()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_speeds_and_limits_of_a_layer() -> None:
    found = [{"name": "neck", "calls": 2, "rest": False, "macs": 3_000_000, "bytes": 1_000_000}]
    (layer,) = timed_layers(found, {"neck": [0.002, 0.003, 0.010]})
    assert (layer.p50_ms, layer.macs_per_second, layer.bytes_per_second, layer.intensity) == (3, 1e9, 1e9 / 3, 3)
    assert layer.p10_ms < 3 < layer.p90_ms
    assert layer.limit_ms(Ceilings(2e9, 1e12)) == pytest.approx(1.5)
    assert layer.limit_ms(Ceilings(2e12, 5e8)) == pytest.approx(2)
    still = TimedLayer("identity", 1, False, 0, 0, 0.0, 0.0, 0.0)
    assert (still.macs_per_second, still.bytes_per_second, still.intensity) == (0, 0, None)
