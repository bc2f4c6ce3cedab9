"""Colours for the classes of label maps: the data's own, or as many as are needed, far apart for everybody's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.views.sheet import Colour

NO_CLASS: Colour = (0, 0, 0)
"""What has no class."""
_FIRST = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
"""Okabe and Ito's, which the first classes get."""
_TAKEN = ((0, 0, 0), (255, 255, 255), (128, 128, 128))
"""No class comes near what stands for no class, for outlines and for pixels that are right."""
_LIGHTNESS = (0.38, 0.95)
"""Of Oklab, 0 to 1: darker colours hide the image below them."""
# What red-blind and green-blind people see of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
_RED_BLIND = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_GREEN_BLIND = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Oklab (Ottosson 2020): linear RGB -> cone responses, whose cube roots -> lightness and two opponent colours
_CONES = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566), (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_OPPONENTS = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099), (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip


def class_colours(num_classes: int, palette: Sequence[Colour] | None = None) -> NDArray[np.uint8]:
    """(256, 3) RGB by label: `palette` where the data has one, else chosen; NO_CLASS from `num_classes` on."""
    table = np.empty((256, 3), np.uint8)
    table[:] = NO_CLASS
    table[: min(num_classes, IGNORE_LABEL)] = chosen_colours(num_classes) if palette is None else palette
    return table


@lru_cache
def chosen_colours(count: int) -> tuple[Colour, ...]:
    """`count` colours; the first of many are the same as those of few.

    Each is the one of a grid that lies farthest from all before it, in Oklab, seen by the eye that tells them apart
    worst: a common one, a red-blind or a green-blind one.
    """
    levels = np.linspace(0, 255, 14).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    seen = perceived(grid)
    visible = (seen[0, :, 0] > _LIGHTNESS[0]) & (seen[0, :, 0] < _LIGHTNESS[1])
    grid, seen = grid[visible], seen[:, visible]
    chosen: list[Colour] = list(_FIRST[:count])
    nearest = np.full(len(grid), np.inf)
    for colour in perceived(np.array([*_TAKEN, *chosen], np.uint8)).swapaxes(0, 1):
        nearest = np.minimum(nearest, _distance(seen, colour))
    while len(chosen) < count:
        best = int(nearest.argmax())
        chosen.append((int(grid[best, 0]), int(grid[best, 1]), int(grid[best, 2])))
        nearest = np.minimum(nearest, _distance(seen, seen[:, best]))
    return tuple(chosen)


def _distance(seen: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3 eyes, N, 3) and (3, 3) -> (N,): as the worst eye sees it."""
    return np.asarray(np.linalg.norm(seen - colour[:, None], axis=-1).min(0))


def perceived(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) RGB -> (3, N, 3) Oklab of a common, a red-blind and a green-blind eye."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, linear @ np.array(_RED_BLIND).T, linear @ np.array(_GREEN_BLIND).T])
    return np.asarray(np.cbrt(eyes @ np.array(_CONES).T) @ np.array(_OPPONENTS).T)
