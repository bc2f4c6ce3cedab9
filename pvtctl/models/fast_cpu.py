"""Faster CPU kernels for a built model: `optimize_for_cpu`.

The layers of pvtctl are plain torch. The commands, `load_run` and the benchmarks replace them by subclasses with the same
names and parameters. Each computes the same as its layer, up to float32 rounding:

| kernel | where | when it is used |
| --- | --- | --- |
| `FastLinear` | linear layers of attention and MLPs | float32 inference on a CPU with AVX-512 |
| `FastMlp` | MLPs without convolution | float32 inference on a CPU |
| `FoldedConvNorm` | convolution and batch norm of dense heads | float32 inference on a CPU |
| `WinogradConv` | 3x3 convolutions of necks and heads | float32 inference on a CPU, large maps, from 128 channels (256 without AVX-512) |
| `PatchConv` | convolutions whose kernel is their stride | always, except in `torch.export` |
| `SplitReassemble` | DPT's "project" readout | always |
| attention | all attention of pvtctl's own layers | on a CPU: training in float32, and everything in bf16 |

A modified layer (hooks, pruning, parametrisations, adapters, quantised replacements, a patched `forward`) is called
unchanged. Gradients, autocast, tracing, compiling, export and operation counters use the plain kernels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.vit import ResNetEmbed
from pvtctl.models.heads.dpt import Reassemble
from pvtctl.models.heads.trans2seg import PrototypeAttention
from pvtctl.models.layers.attention import DotProductAttention, SelfAttention, SpatialReductionAttention
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import ModuleT, PatchEmbed, Size, to_map

SWITCH = "PVTCTL_FAST_CPU"
"""Environment variable; 0 leaves every model plain."""

# not in torch 2.6; the export-safe way is right in other graphs too
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def optimize_for_cpu(model: ModuleT, *, enabled: bool = True) -> ModuleT:
    """Replace layers of `model` by faster CPU kernels, in place, and return it.

    Names and values of parameters, hooks and the training mode stay, and outputs are equal up to float32 rounding. On
    other devices the model runs as before, except that patch convolutions become matmuls there too. A second call changes
    nothing.

    Args:
        model: A model of pvtctl, or any module with such layers.
        enabled: False restores the plain layers, as does the environment variable PVTCTL_FAST_CPU=0.
    """
    for module in model.modules():
        if type(module) in _PLAIN_OF:
            module.__class__ = _PLAIN_OF[type(module)]
    if enabled and os.environ.get(SWITCH) != "0":
        for lever in LEVERS:
            if lever.pays():
                for module in lever.find(model):
                    module.__class__ = lever.kernels[type(module)]
    return model


@contextmanager
def plain_kernels(model: nn.Module) -> Iterator[None]:
    """Context in which `model` has its plain layers, as `torch.export` needs them."""
    before = [(module, type(module)) for module in model.modules() if type(module) in _PLAIN_OF]
    optimize_for_cpu(model, enabled=False)
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind


# --- when a kernel may be used


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling `layer` runs exactly its class, one of `kinds`, and nothing else.

    False with hooks (including pruning and weight norm), parametrisations, adapters, quantised replacements and patched
    `forward`s: such a layer must be called, not bypassed by reading its weight.
    """
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) in kinds and not any(hooks) and "forward" not in layer.__dict__


def is_plain_inference(*tensors: Tensor | None) -> bool:
    """Whether all are plain float32 CPU tensors and nothing observes the operations: no forward or backward gradient,
    autocast, tracing, compiling, export or counting.
    """
    return (
        not torch.is_grad_enabled()
        and all(
            t is None or (type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.is_cpu) for t in tensors
        )
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )


def has_avx512() -> bool:
    """Whether torch uses AVX-512 on this processor, which the variable ATEN_CPU_CAPABILITY can forbid."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


# --- linear layers

ROWS, AWKWARD_ROWS, LARGE_WEIGHT = 256, range(385, 1024), 1 << 19
"""Rows at a time, for a large weight and a number of rows that oneDNN may not divide well (see `_in_chunks`)."""

CHUNK_BYTES = 4 << 20
"""Size of hidden activations that stay in a CPU's cache between the two products of an MLP; measured, see `FastMlp`."""


@functools.cache
def one_pass_pays() -> bool:
    """Whether the processor has AVX-512, without which oneDNN's one-pass product is slower, and this torch has the operator,
    whose name is not stable, with correct results.
    """
    if not has_avx512():
        return False
    try:
        # no random numbers: this must not change the state of the caller's generator
        x, weight, bias = (torch.linspace(-1, 1, n, device="cpu").sin() for n in (5 * 24, 16 * 24, 16))
        x, weight = x.reshape(5, 24), weight.reshape(16, 24)
        with torch.inference_mode():
            out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
        return torch.allclose(out, F.gelu(F.linear(x, weight, bias)), atol=1e-4)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out), with a GELU if requested.

    torch's own linear copies the bias over the whole output before the product, and a GELU reads and writes that output
    again; for the wide hidden layers of a PVT these passes cost up to a third of the product. oneDNN does product, bias
    and GELU in one pass, which torch uses in `torch.compile` only.
    """
    if one_pass_pays() and is_plain_inference(x, weight, bias):
        rows = x.numel() // x.shape[-1]
        if rows in AWKWARD_ROWS and rows % 64 and weight.numel() >= LARGE_WEIGHT:
            return _in_chunks(x, weight, bias, gelu=gelu)
        return _one_pass(x, weight, bias, gelu=gelu)
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def _one_pass(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def _in_chunks(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """oneDNN cuts the rows into equal blocks, and for some numbers finds none that fit: the 577 tokens of a ViT at 384
    pixels (1024 to 3072 channels) take 45 ms on a Zen 4 core, 576 take 35. In chunks it is 36; where the unchunked
    product is efficient, chunks cost 3 % more.
    """
    rows = x.flatten(0, -2)
    out = x.new_empty(len(rows), len(weight))
    for start in range(0, len(rows), ROWS):
        out[start : start + ROWS] = _one_pass(rows[start : start + ROWS], weight, bias, gelu=gelu)
    return out.view(*x.shape[:-1], len(weight))


class FastLinear(nn.Linear):
    """nn.Linear using `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) if is_plain(self, FastLinear) else super().forward(x)


class FastMlp(Mlp):
    """The MLP with its first GELU in the same pass, a few thousand tokens at a time.

    The hidden layer of PVT's first stage is 8 times as wide as its tokens: 51 MB at batch 8 and 224, 124 MB for an
    800x1216 image. In chunks it stays in the cache, and does not add to the peak memory.
    """

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        first, second = self.fc1, self.fc2
        # modified layers may use all tokens at once, or count their calls
        plain = is_plain(first, nn.Linear, FastLinear) and is_plain(second, nn.Linear, FastLinear)
        if self.dwconv is not None or not plain or not is_plain_inference(tokens, first.weight, second.weight):
            return super().forward(tokens, size)
        chunk = max(CHUNK_BYTES // (first.out_features * 4), 1)
        if tokens.numel() // first.in_features < 2 * chunk:
            hidden = linear(tokens, first.weight, first.bias, gelu=True)
            return linear(hidden, second.weight, second.bias)
        rows = tokens.flatten(0, -2)
        out = torch.empty_like(rows)
        for start in range(0, len(rows), chunk):
            hidden = linear(rows[start : start + chunk], first.weight, first.bias, gelu=True)
            out[start : start + chunk] = linear(hidden, second.weight, second.bias)
        return out.view_as(tokens)


class SplitReassemble(Reassemble):
    """The class token's part of the readout's product, equal for all tokens of an image, is computed once."""

    def projected(self, tokens: Tensor, first: Tensor) -> Tensor:
        assert self.read is not None
        if not is_plain(self.read, nn.Linear):
            return super().projected(tokens, first)
        own, beside = self.read.weight.tensor_split(2, dim=1)
        return F.gelu(F.linear(tokens, own) + F.linear(first, beside, self.read.bias))


# --- convolutions


class PatchConv(nn.Conv2d):
    """A convolution whose kernel is its stride, as one matmul over gathered patches. The result is channels_last.

    Rows and columns beyond a multiple of the stride are ignored, as in the convolution. Gathering is cheap where channels
    are innermost, as in the maps of tokens; from the three planes of an image it costs more than the product. In
    `torch.export` it would restrict later images to sizes that divide as the example's do.
    """

    def forward(self, x: Tensor) -> Tensor:
        if is_exporting() or not is_plain(self, PatchConv):
            return super().forward(x)
        stride = self.weight.shape[-1]
        size = x.shape[2] // stride, x.shape[3] // stride
        batch, channels = x.shape[:2]
        x = x.permute(0, 2, 3, 1)[:, : size[0] * stride, : size[1] * stride]
        patches = x.view(batch, size[0], stride, size[1], stride, channels).transpose(2, 3)  # B h w s s C
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        return to_map(linear(patches.flatten(3).flatten(1, 2), weight, self.bias), size)


class FoldedConvNorm(ConvNorm):
    """The norm is folded into the convolution: one pass over the maps instead of three; a 3x3 one over large maps runs by
    `winograd`.
    """

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self.conv, self.bn
        plain = is_plain(conv, nn.Conv2d) and is_plain(bn, nn.BatchNorm2d)
        if not plain or bn.training or not is_plain_inference(x, conv.weight, bn.weight, bn.running_var):
            return super().forward(x)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight, bias = conv.weight * scale.view(-1, 1, 1, 1), bn.bias - bn.running_mean * scale
        if conv.kernel_size == (3, 3) and conv.dilation == (1, 1) and conv.groups == 1 and is_large(x, weight):
            out = winograd(x, weight, bias)
        else:
            out = F.conv2d(x, weight, bias, 1, conv.padding, conv.dilation, conv.groups)
        return F.relu(out, inplace=True) if self.relu else out


class WinogradConv(nn.Conv2d):
    """A 3x3 convolution of stride 1 and padding 1, by `winograd` where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        # in this order: a condition on the size would restrict an exported graph to the example's
        if is_plain_inference(x, self.weight, self.bias) and is_large(x, self.weight):
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


MIN_CELLS, MIN_CHANNELS, MIN_CHANNELS_AVX2 = 1024, 128, 256
"""Least map size and channels for Winograd's convolution; below, the transforms cost what the products save.

Without AVX-512 (one Zen 3 core, AVX2): 256 channels take 0.57 to 0.84 of the plain convolution's time, 128 take 1.2 to 1.5.
"""

WORKSPACE = 4 << 20
"""Floats of its largest intermediate, to fit the cache."""


def _both_axes(rows: list[list[float]]) -> Tensor:
    """The matrix that applies `rows` along both axes of a flattened tile."""
    one = torch.tensor(rows, dtype=torch.float64, device="cpu")
    return torch.kron(one, one).float()


_INPUT = _both_axes(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = _both_axes(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = _both_axes([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether `winograd` is faster than the plain convolution for these tensors."""
    least = MIN_CHANNELS if has_avx512() else MIN_CHANNELS_AVX2
    return x.ndim == 4 and x.shape[2] * x.shape[3] >= MIN_CELLS and min(weight.shape[:2]) >= least


def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x (B, C, H, W) with weight (out, C, 3, 3), stride 1, padding 1, plus bias (out,) if given.

    Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308, section 4.3; its Y = A^T [(G g G^T) * (B^T d B)]
    A): a tile of 4x4 outputs takes 36 products per channel pair instead of 144, plus additions in the transforms. cuDNN does
    so by default; oneDNN no longer does. Rounding differs from the plain sum by float32 noise (measured: 4e-5 of the output's
    standard deviation at most, where oneDNN's own convolution has 1e-5).

    float32 on the CPU, without gradient. The result is channels_last.
    """
    batch, channels, height, width = x.shape
    out_channels = weight.shape[0]
    rows, columns = -(-height // 4), -(-width // 4)  # of tiles
    kernel = (_KERNEL @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, channels, out_channels)
    padded = x.new_zeros(batch, 4 * rows + 2, 4 * columns + 2, channels)
    padded[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    out = x.new_empty(batch, rows, 4, columns, 4, out_channels)
    step = max(1, WORKSPACE // (36 * columns * max(channels, out_channels)))
    for image in range(batch):
        for top in range(0, rows, step):
            bottom = min(top + step, rows)
            strip = padded[image, 4 * top : 4 * bottom + 2]
            down, right, _ = strip.stride()
            tiles = strip.as_strided(
                (6, 6, bottom - top, columns, channels), (down, right, 4 * down, 4 * right, 1), strip.storage_offset()
            )
            spread = (_INPUT @ tiles.reshape(36, -1)).view(36, -1, channels)
            products = torch.bmm(spread, kernel).view(36, -1)
            sums = (_OUTPUT @ products).view(4, 4, bottom - top, columns, out_channels)
            done, into = sums.permute(2, 0, 3, 1, 4), out[image, top:bottom]
            if bias is None:
                into.copy_(done)
            else:
                torch.add(done, bias, out=into)
    whole = out.view(batch, 4 * rows, 4 * columns, out_channels)[:, :height, :width]
    return whole.contiguous().permute(0, 3, 1, 2)


# --- attention

PLAIN_MAX_KEYS, PLAIN_MIN_QUERIES = 64, 512
"""float32: plain attention is used in CPU training up to that many keys and from that many queries."""

PLAIN_MAX_PAIRS = 1 << 22
"""bf16 and fp16: plain attention is used on a CPU up to that many query-key pairs; beyond, memory decides."""


def choose_attention(
    num_queries: int, num_keys: int, *, dtype: torch.dtype, device_type: str, needs_grad: bool
) -> Literal["fused", "plain"]:
    """Choose the faster attention kernel: `fused` (torch's SDPA) or `plain` (matmul, softmax, matmul).

    The fused kernel avoids the (N, M) matrix, which matters at detection sizes and on every GPU. On a CPU in float32 its
    backward is slower only where keys are few and queries many, as in the first stages of a PVT at 224. In bf16 it does not
    use the processor's bf16 products as plain matmuls do, and is always slower. Measured (one Zen 4 core, torch 2.15,
    batch 8, forward and backward, ms fused / plain):

    | queries x keys, heads | float32 | bf16 |
    | --- | --- | --- |
    | 3136x49, 1 | 19.3 / 18.7 | 22.7 / 11.1 |
    | 196x49, 5 | 7.5 / 7.3 | 15.2 / 3.9 |
    | 50x50, 8 | 4.1 / 4.2 | 10.1 / 2.3 |
    | 197x197, 6 (a DeiT) | 26.7 / 29.8 | 34.3 / 13.1 |
    """
    if device_type != "cpu" or is_exporting():  # an exported graph runs at other sizes and elsewhere
        return "fused"
    if dtype in (torch.bfloat16, torch.float16):
        return "plain" if num_queries * num_keys <= PLAIN_MAX_PAIRS else "fused"
    few_keys = needs_grad and num_keys <= PLAIN_MAX_KEYS and num_queries >= PLAIN_MIN_QUERIES
    return "plain" if few_keys else "fused"


class _ChosenAttention(DotProductAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        device_type = q.device.type
        match choose_attention(q.shape[2], k.shape[2], dtype=q.dtype, device_type=device_type, needs_grad=needs_grad):
            case "fused":
                return super().attend(q, k, v)
            case "plain":
                scores = q @ (k * q.shape[-1] ** -0.5).transpose(-2, -1)
                return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


class FastSelfAttention(_ChosenAttention, SelfAttention):
    """SelfAttention with the kernel of `choose_attention`."""


class FastSpatialReductionAttention(_ChosenAttention, SpatialReductionAttention):
    """SpatialReductionAttention with the kernel of `choose_attention`."""


class FastPrototypeAttention(_ChosenAttention, PrototypeAttention):
    """PrototypeAttention with the kernel of `choose_attention`."""


# --- which layers


@dataclass(frozen=True)
class Lever:
    """One group of kernel replacements."""

    kernels: dict[type[nn.Module], type[nn.Module]]
    """Plain class -> its replacement."""
    find: Callable[[nn.Module], Iterator[nn.Module]]
    """The layers of a model to replace."""
    pays: Callable[[], bool] = lambda: True
    """Whether it is faster on this processor."""


_LINEARS = {Mlp: ("fc1", "fc2"), SelfAttention: ("qkv", "proj"), SpatialReductionAttention: ("q", "kv", "proj")}
_PATCH_CONVS = {PatchEmbed: "proj", SpatialReductionAttention: "sr", ResNetEmbed: "proj", Reassemble: "project"}


def _linears(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        for owner, names in _LINEARS.items():
            if isinstance(module, owner):
                yield from (layer for name in names if type(layer := getattr(module, name)) is nn.Linear)


def _patch_convs(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        for owner, name in _PATCH_CONVS.items():
            conv = getattr(module, name, None) if isinstance(module, owner) else None
            if type(conv) is nn.Conv2d and conv.kernel_size == conv.stride and conv.in_channels != 3:
                yield conv


def _convs_3x3(model: nn.Module) -> Iterator[nn.Module]:
    """Those of necks and heads that are not part of a `ConvNorm`."""
    others = [module for module in model.modules() if isinstance(module, Backbone | ConvNorm)]
    left_out = {inner for other in others for inner in other.modules()}
    for conv in model.modules():
        if type(conv) is not nn.Conv2d or conv in left_out or conv.kernel_size != (3, 3):
            continue
        if conv.stride == conv.dilation == conv.padding == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros":
            yield conv


def _of(kernels: dict[type[nn.Module], type[nn.Module]], pays: Callable[[], bool] = lambda: True) -> Lever:
    """For all layers of exactly these classes."""
    return Lever(kernels, lambda model: (module for module in model.modules() if type(module) in kernels), pays)


LEVERS = (
    Lever({nn.Linear: FastLinear}, _linears, one_pass_pays),
    _of({Mlp: FastMlp}),
    _of({Reassemble: SplitReassemble}),
    Lever({nn.Conv2d: PatchConv}, _patch_convs),
    _of({ConvNorm: FoldedConvNorm}),
    Lever({nn.Conv2d: WinogradConv}, _convs_3x3),
    _of(
        {
            SelfAttention: FastSelfAttention,
            SpatialReductionAttention: FastSpatialReductionAttention,
            PrototypeAttention: FastPrototypeAttention,
        }
    ),
)

_PLAIN_OF = {fast: plain for lever in LEVERS for plain, fast in lever.kernels.items()}
