"""Learned position tables, resized by height and width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pvtctl.models.layers.patches import Size, to_map, to_tokens


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
