"""Colours of classes in label maps: the data's palette, or generated ones that the colour-blind can distinguish too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.views.sheet import Colour

NO_CLASS: Colour = (0, 0, 0)
"""Colour of pixels without a class."""
_FIRST = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
"""Okabe and Ito's palette, for the first classes."""
_TAKEN = ((0, 0, 0), (255, 255, 255), (128, 128, 128))
"""Reserved colours that classes stay away from: no class, outlines and correct pixels."""
_LIGHTNESS = (0.38, 0.95)
"""Range of lightness in Oklab, 0 to 1: darker colours hide the image below them."""
# Simulation of red and green blindness in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
_RED_BLIND = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_GREEN_BLIND = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
# Oklab (Ottosson 2020): linear RGB -> cone responses, whose cube roots -> lightness and two opponent colours
_CONES = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566), (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_OPPONENTS = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099), (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip


def class_colours(num_classes: int, palette: Sequence[Colour] | None = None) -> NDArray[np.uint8]:
    """(256, 3) RGB by label: `palette` if the data has one, else generated; NO_CLASS from `num_classes` on."""
    table = np.empty((256, 3), np.uint8)
    table[:] = NO_CLASS
    table[: min(num_classes, IGNORE_LABEL)] = chosen_colours(num_classes) if palette is None else palette
    return table


@lru_cache
def chosen_colours(count: int) -> tuple[Colour, ...]:
    """Generate `count` colours; the first ones do not depend on `count`.

    Each is the colour of a grid with the largest Oklab distance from all before it: the smallest one over normal,
    red-blind and green-blind vision.
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
    """(3 kinds of vision, N, 3) and (3, 3) -> (N,): the smallest distance over the kinds of vision."""
    return np.asarray(np.linalg.norm(seen - colour[:, None], axis=-1).min(0))


def perceived(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, 3) RGB -> (3, N, 3) Oklab for normal, red-blind and green-blind vision."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    eyes = np.stack([linear, linear @ np.array(_RED_BLIND).T, linear @ np.array(_GREEN_BLIND).T])
    return np.asarray(np.cbrt(eyes @ np.array(_CONES).T) @ np.array(_OPPONENTS).T)
