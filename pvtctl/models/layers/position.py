"""Learned position tables, resized by height and width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pvtctl.models.layers.patches import Size, to_map, to_tokens


def resize_position_table(table: Tensor, grid: Size, size: Size) -> Tensor:
    """(1, h*w, C), learned on `grid` (h, w), for a map of `size` (H, W): (1, H*W, C), bilinear, corners not aligned.

    The table is taken as it is only when both sides agree. (The official code compares H*W, and so misplaces positions
    on maps such as 28x112, and compares with the first stage's count in every stage.)
    """
    if is_grid(size, grid):
        return table
    return to_tokens(F.interpolate(to_map(table, grid), size=size, mode="bilinear", align_corners=False))


def is_grid(size: Size, grid: Size) -> bool:
    """Whether a map of `size` has the sides of `grid`, so that nothing need be resized.

    False for sizes that `torch.export` keeps open, which are no ints: such a graph resizes always, which at equal sides
    changes nothing.
    """
    return all(isinstance(side, int) for side in size) and size == grid
