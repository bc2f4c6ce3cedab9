"""Draw the similarity of position embeddings: for some cells of a table, the similarity to all cells, as a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvtctl.views.figure import head, new_figure

_TILES, _LABELS = 4.2, 0.75
"""In inches: the longer side of a panel, and the height of its title."""


@dataclass(frozen=True)
class Similarities:
    """A table's panel: `maps` (Q, h, w), cosine similarities of the cells `places` (row, column), which form a grid."""

    title: str
    maps: NDArray[np.float32]
    places: Sequence[tuple[int, int]]


def draw_positions(rows: Sequence[Sequence[Similarities]], *, title: str) -> Figure:
    """Draw a row per table: as learned and, if there is a second panel, resized. Each row has one colour scale, up to
    the largest similarity of different cells."""
    across = max(len(row) for row in rows)
    shapes = [_tiling(row[-1].places, row[-1].maps.shape[1:])[0] for row in rows]
    heights = [_TILES * min(1.0, shape[0] / shape[1]) + _LABELS for shape in shapes]
    figure = new_figure(across * (_TILES + 0.3) + 0.8, sum(heights) + 0.5)
    head(figure, title)
    grid: Any = figure.subplots(len(rows), across, squeeze=False, height_ratios=heights)
    for axes_row, row in zip(grid, rows, strict=True):
        limit = max(_largest(each) for each in row)
        for axes in axes_row:
            axes.set_axis_off()
        for axes, each in zip(axes_row, row, strict=False):
            _draw_panel(axes, each, limit)
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), "RdBu_r")
        bar = figure.colorbar(scale, ax=list(axes_row), shrink=0.8, aspect=25, pad=0.01, panchor=False)
        bar.set_label("cosine similarity", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_visible(False)
    return figure


def _tiling(places: Sequence[tuple[int, int]], grid: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Size (h, w) of the picture in cells, (rows, columns) of tiles, and the gap between them."""
    tiles = len({row for row, _ in places}), len({column for _, column in places})
    gap = max(1, max(grid) // 12)
    return (tiles[0] * (grid[0] + gap) - gap, tiles[1] * (grid[1] + gap) - gap), tiles, gap


def _draw_panel(axes: Axes, each: Similarities, limit: float) -> None:
    height, width = each.maps.shape[1:]
    whole, tiles, gap = _tiling(each.places, (height, width))
    picture = np.full(whole, np.nan, np.float32)
    marks = []
    for at, (tile, (row, column)) in enumerate(zip(each.maps, each.places, strict=True)):
        top, left = (at // tiles[1]) * (height + gap), (at % tiles[1]) * (width + gap)
        picture[top : top + height, left : left + width] = tile
        marks.append((left + column, top + row))
    axes.set_anchor("NW")
    axes.set_title(each.title, loc="left", fontsize=10, parse_math=False)
    axes.imshow(np.ma.masked_invalid(picture), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    xs, ys = zip(*marks, strict=True)
    axes.plot(
        xs, ys, linestyle="", marker="o", markersize=3.4, markerfacecolor="black", markeredgecolor="white", mew=0.7
    )


def _largest(each: Similarities) -> float:
    """Largest similarity of different cells, rounded up to a tenth."""
    others = np.abs(each.maps).copy()
    for at, (row, column) in enumerate(each.places):
        others[at, row, column] = 0
    return max(0.1, float(np.ceil(others.max() * 10) / 10))
