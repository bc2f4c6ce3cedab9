"""timm's models of one image size at others: the same parameters in a model of that size, position tables interpolated."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.timm_build import TimmModel, build_at

Size = tuple[int, int]
_TABLES = ("pos_embed", "relative_position_bias_table", "attention_biases")
_STRIDES = (4, 8, 14, 16, 32, 64, 28, 56)
_BEIT_SPECIAL = 3
"""Rows of BEiT's relative tables for pairs with the class token."""
_MOST_SPECIAL = 16
"""Special tokens with a row in an absolute table."""


class Resized:
    """timm's model for images of `size`, around the parameters of `model`.

    Buffers (indices of positions) are its own, those of batch norms `model`'s. It is no submodule: neither state dicts nor
    optimisers see it.
    """

    def __init__(self, model: TimmModel, size: Size, device: torch.device) -> None:
        self.net = build_at(model, size)
        self._pairs = list(zip(model.net.modules(), self.net.modules(), strict=True))
        self._tables: list[tuple[nn.Module, nn.Module, str]] = []
        self._sizes = (model.native, size)
        for base, own in self._pairs:
            for name, parameter in base.named_parameters(recurse=False):
                if name in _TABLES:
                    delattr(own, name)  # from here on a plain attribute
                    self._tables.append((base, own, name))
                elif parameter.shape != own.get_parameter(name).shape:
                    raise UsageError(f"timm's {model.name} cannot be built for {size[0]}x{size[1]}: {name} differs")
                else:
                    own._parameters[name] = parameter
            for name, buffer in own.named_buffers(recurse=False):
                shared = isinstance(own, nn.modules.batchnorm._BatchNorm)
                own._buffers[name] = base._buffers[name] if shared else buffer.to(device)

    def ready(self) -> nn.Module:
        """The model in `model`'s modes, with its tables as they are now."""
        for base, own in self._pairs:
            own.training = base.training
            if isinstance(getattr(own, "attention_bias_cache", None), dict):  # LeViT's, of an earlier table
                own.__dict__["attention_bias_cache"] = {}
        for base, own, name in self._tables:
            own.__dict__[name] = resample_table(base.get_parameter(name), name, *self._sizes)
        return self.net


def resample_table(table: Tensor, name: str, old: Size, new: Size) -> Tensor:
    """A position table of a model for images of `old` (height, width), interpolated (bicubic) for images of `new`.

    Absolute: (1, S + h w, C) with S special tokens, (1, h, w, C), or NesT's (1, blocks, h w, C). Relative: (offsets [+ 3],
    heads) or (heads, 2 h - 1, 2 w - 1). Distances: (heads, h w). Raises UsageError for a table of no known grid.
    """
    if name == "attention_biases":
        return _of_cells(table, old, new)
    if name == "relative_position_bias_table":
        if table.ndim == 3:
            return _of_cells(table.flatten(1), old, new, relative=True, flat=False)
        split = next((n for n in (0, _BEIT_SPECIAL) if _stride(table.shape[0] - n, old, relative=True)), 0)
        offsets, special = table[: table.shape[0] - split], table[table.shape[0] - split :]
        return torch.cat([_of_cells(offsets.T, old, new, relative=True).T, special])
    if table.ndim == 3:
        split = next((n for n in range(_MOST_SPECIAL) if _stride(table.shape[1] - n, old)), 0)
        return torch.cat([table[0, :split], _of_cells(table[0, split:].T, old, new).T])[None]
    if table.shape[1:3] == _grid(old, _stride(table.shape[1] * table.shape[2], old) or old[0]):
        return _of_cells(table[0].flatten(0, 1).T, old, new, flat=False).permute(1, 2, 0)[None]
    count, side = math.isqrt(table.shape[1]), math.isqrt(table.shape[2])
    larger = side * new[0] // old[0]
    whole = _interpolated(_joined(table[0], count, side), (count * larger, count * larger))
    return _parted(whole, count, larger)[None]


def _of_cells(cells: Tensor, old: Size, new: Size, *, relative: bool = False, flat: bool = True) -> Tensor:
    """(C, cells of the grid over an image of `old`) -> (C, cells over `new`), or (C, h, w) if not `flat`."""
    stride = _stride(cells.shape[1], old, relative=relative)
    if stride is None:
        raise UsageError(f"a position table of {cells.shape[1]} rows has no grid over {old[0]}x{old[1]} pixels")
    found = _interpolated(cells.reshape(-1, *_grid(old, stride, relative)), _grid(new, stride, relative))
    return found.flatten(1) if flat else found


def _stride(cells: int, image: Size, *, relative: bool = False) -> int | None:
    """The stride at which the grid over an image has this many cells."""
    return next((each for each in _STRIDES if math.prod(_grid(image, each, relative)) == cells), None)


def _grid(image: Size, stride: int, relative: bool = False) -> Size:
    """Rows and columns of the cells of an image, or of the offsets between two of them."""
    height, width = -(-image[0] // stride), -(-image[1] // stride)
    return (2 * height - 1, 2 * width - 1) if relative else (height, width)


def _interpolated(maps: Tensor, size: Size) -> Tensor:
    """(C, h, w) -> (C, *size); unchanged where the size is the same."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[None].float(), size=size, mode="bicubic", align_corners=False)[0].to(maps.dtype)


def _joined(blocks: Tensor, count: int, side: int) -> Tensor:
    """NesT's blocks (count^2, side^2, C) as one grid (C, count side, count side)."""
    x = blocks.reshape(count, count, side, side, -1).permute(4, 0, 2, 1, 3)
    return x.reshape(-1, count * side, count * side)


def _parted(x: Tensor, count: int, side: int) -> Tensor:
    """The inverse of `_joined`."""
    return x.reshape(-1, count, side, count, side).permute(1, 3, 2, 4, 0).reshape(count * count, side * side, -1)
