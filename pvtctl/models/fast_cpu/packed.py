"""Weights in oneDNN's own layout, for models whose weights do not change.

oneDNN computes with weights cut into blocks. torch hands it plain ones, so that every call cuts them again: for one image of
224 pixels that takes most of the time of a spatial reduction, and a tenth of that of the linear layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 784
"""Number of rows for which matrices are packed. The layout is right for any, and fast from two."""


@dataclass(frozen=True)
class _Kept:
    """What was made of some tensors, for inputs of a shape, and how to see that they have changed since."""

    value: Any
    shape: torch.Size | None
    sources: tuple[Tensor, ...]
    aliases: tuple[Tensor, ...]
    """The same memory, which is therefore not given to another tensor."""
    versions: tuple[int, ...]

    @classmethod
    def of(cls, value: Any, sources: Sequence[Tensor], shape: torch.Size | None) -> _Kept:
        aliases = tuple(each.detach() for each in sources)
        return cls(value, shape, tuple(sources), aliases, tuple(each._version for each in sources))

    def holds_for(self, sources: Sequence[Tensor], shape: torch.Size | None) -> bool:
        return shape == self.shape and all(
            now is then and now._version == version and now.data_ptr() == alias.data_ptr()
            for now, then, alias, version in zip(sources, self.sources, self.aliases, self.versions, strict=True)
        )


_layers: WeakKeyDictionary[nn.Module, dict[Callable[..., Any], _Kept]] = WeakKeyDictionary()
"""The layers of models in inference, and what each function made. Copies and pickles of a model have none of it."""


def pack(model: nn.Module) -> None:
    """Let the CPU kernels of `model` keep their weights in oneDNN's layout too, from their next call on.

    It needs as much memory as the weights, for Winograd's convolution four times as much. Weights that are replaced, loaded
    or changed in place are packed again; a change through `.data`, which torch does not record, needs `unpack`.
    """
    for module in model.modules():
        _layers.setdefault(module, {})


def unpack(model: nn.Module) -> None:
    """Forget the packed weights of `model`."""
    for module in model.modules():
        _layers.pop(module, None)


def is_packed(layer: nn.Module) -> bool:
    """Whether `layer` keeps its weights packed."""
    return layer in _layers


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Context in which `model` is packed; afterwards it is what it was."""
    new = [module for module in model.modules() if module not in _layers]
    pack(model)
    try:
        yield
    finally:
        for module in new:
            _layers.pop(module, None)


def kept(
    layer: nn.Module, sources: Sequence[Tensor], make: Callable[..., Any], *given: Any, shape: torch.Size | None = None
) -> Any | None:
    """What `make(*given)` gives from `sources`, kept until one of them changes, or the `shape` that it is for; None if `layer`
    is not packed.

    With `sources` of `torch.inference_mode`, whose changes cannot be seen, None too.
    """
    made = _layers.get(layer)
    if made is None or any(source.is_inference() for source in sources):
        return None
    found = made.get(make)
    if found is None or not found.holds_for(sources, shape):
        found = made[make] = _Kept.of(make(*given), sources, shape)
    return found.value


def forget(layer: nn.Module) -> None:
    """Let `layer` pack its weights again, as when it is trained: fused optimisers leave no trace on what they change."""
    if not torch.compiler.is_compiling() and (made := _layers.get(layer)):
        made.clear()


@functools.cache
def packing_works() -> bool:
    """Whether this torch has oneDNN's operations on packed weights, whose names are not stable, with correct results."""
    try:
        # no random numbers: this must not change the state of the caller's generator
        numbers = [torch.linspace(-1, 1, n, device="cpu").sin() for n in (2 * 24, 16 * 24, 16)]
        x, weight, bias = numbers[0].view(2, 24), numbers[1].view(16, 24), numbers[2]
        image = x.view(2, 6, 2, 2).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            rows = F.linear(x, weight, bias)
            pairs = [(multiply_packed(x, each, bias), rows) for each in (weight, pack_matrix(weight))]
            pairs.append((multiply_packed(rows, weight.t(), None), rows @ weight))
            pairs.append((multiply_packed(x, pack_matrix(weight), bias, gelu=True), F.gelu(rows)))
            for groups in (1, 2):
                conv = nn.Conv2d(6, 16, 2, groups=groups, device="meta")
                kernel = weight.view(16, 6, 2, 2)[:, : 6 // groups]
                packed = pack_kernel(kernel, conv, image.shape)
                pairs.append((convolve_packed(image, packed, bias, conv), F.conv2d(image, kernel, bias, groups=groups)))
        return all(torch.allclose(ours, plain, atol=1e-4) for ours, plain in pairs)
    except (AttributeError, RuntimeError):
        return False


def pack_matrix(weight: Tensor) -> Tensor:
    """weight (out, in), as `multiply_packed` takes it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)


def multiply_packed(x: Tensor, packed: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (..., in) -> (..., out), plus bias (out,) if given, then a GELU if requested; `packed` may be a plain weight too."""
    then, kind = ("gelu", "none") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], kind)


def pack_kernel(weight: Tensor, conv: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """weight (out, in, kh, kw) with the geometry of `conv`, as `convolve_packed` takes it for maps of `shape` (B, in, H, W).

    For other shapes the result is the same, but may take several times as long.
    """
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight.detach(), conv.padding, conv.stride, conv.dilation, conv.groups, shape
    )


def convolve_packed(x: Tensor, packed: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """The convolution of x (B, in, H, W), with the geometry of `conv`; the result is channels_last."""
    return torch.ops.mkldnn._convolution_pointwise(
        x, packed, bias, conv.padding, conv.stride, conv.dilation, conv.groups, "none", [], ""
    )
