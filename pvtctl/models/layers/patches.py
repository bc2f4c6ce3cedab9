"""Convert between maps (B, C, H, W) and tokens (B, N, C) without copies; patch convolutions and position tables.

Tokens are contiguous; their map is a channels_last view of the same memory, and vice versa. The weights of the
convolutions here are channels_last too (their shape is the usual one).
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), a view."""
    # in this order: a view of the transposed tokens gets a batch stride, at batch 1, that hides the layout from convolutions
    return tokens.view(tokens.shape[0], *size, tokens.shape[2]).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C), a view when `x` is channels_last."""
    return x.flatten(2).transpose(1, 2)


def use_channels_last(module: ModuleT) -> ModuleT:
    """Convert the weights of all convolutions in `module` to channels_last memory, and return it; shapes and values stay.

    Initial values drawn afterwards are drawn in that order.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    return module


class PatchEmbed(nn.Module):
    """Image or map to tokens of the next stage.

    A convolution with kernel = stride (PVT v1 section 3.2, ViT), or an overlapping one with kernel 2s-1 and padding s-1
    (PVT v2 section 3.3), then a LayerNorm (eps 1e-5) unless `norm` is off. Non-overlapping patches round odd sizes down,
    overlapping ones up.
    """

    def __init__(
        self, in_channels: int, dim: int, stride: int, *, overlapping: bool = False, norm: bool = True
    ) -> None:
        super().__init__()
        kernel, padding = (2 * stride - 1, stride - 1) if overlapping else (stride, 0)
        self.proj = use_channels_last(nn.Conv2d(in_channels, dim, kernel, stride, padding))
        self.norm = nn.LayerNorm(dim, eps=1e-5) if norm else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Size]:
        """(B, C, H, W) -> tokens (B, h*w, dim) and (h, w)."""
        x = self.proj(x)
        return self.norm(to_tokens(x)), (x.shape[2], x.shape[3])


def resize_position_table(table: Tensor, grid: Size, size: Size) -> Tensor:
    """Resize (1, h*w, C), trained on `grid` (h, w), to a map of `size` (H, W): (1, H*W, C), bilinear, corners not aligned.

    The table is unchanged only when both sides agree. (The official code compares H*W, and so misplaces positions on maps
    such as 28x112, and compares with the first stage's count in every stage.)
    """
    if is_grid(size, grid):
        return table
    return to_tokens(F.interpolate(to_map(table, grid), size=size, mode="bilinear", align_corners=False))


def is_grid(size: Size, grid: Size) -> bool:
    """Whether a map of `size` has the sides of `grid`, so that no resizing is needed.

    False for dynamic sizes in `torch.export`, which are no ints: such a graph always resizes, which changes nothing at
    equal sides.
    """
    return all(isinstance(side, int) for side in size) and size == grid
