"""Learned position embeddings of a backbone, original and resized, and pictures of the similarity of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.explain.attention import backbone_in
from pvtctl.models.backbones import PvtV2, ResNet, Vit, VitHybrid
from pvtctl.models.backbones.pvt import Pvt, PvtStage
from pvtctl.models.layers.patches import Size, resize_position_table
from pvtctl.views.figure import head, new_figure


@dataclass(frozen=True)
class PositionTable:
    """The table of a stage (`stage1` ...) or of a plain transformer (`patches`): `values` (1, h*w, C), learned on
    `grid` (h, w), without special tokens. A cell is `stride` x `stride` pixels; odd sides are rounded up or down."""

    name: str
    values: Tensor
    grid: Size
    stride: int
    rounds_up: bool = False

    def grid_at(self, size: Size) -> Size:
        """The grid for images of `size` pixels."""
        height, width = (-(-side // self.stride) if self.rounds_up else side // self.stride for side in size)
        return height, width

    def resized(self, grid: Size) -> PositionTable:
        """The table resized as in the backbone."""
        with torch.no_grad():
            values = resize_position_table(self.values, self.grid, grid)
        return PositionTable(self.name, values, grid, self.stride, self.rounds_up)

    def similarity(self, places: list[tuple[int, int]]) -> NDArray[np.float32]:
        """(Q, h, w): the cosine of the angle between each of Q `places` (row, column) and all cells."""
        with torch.no_grad():
            unit = F.normalize(self.values[0].float(), dim=-1).cpu()
            rows = torch.tensor([row * self.grid[1] + column for row, column in places])
            alike: NDArray[np.float32] = (unit[rows] @ unit.T).view(len(places), *self.grid).numpy()
        return alike


def position_tables(model: nn.Module) -> list[PositionTable]:
    """The tables of the backbone in `model`. If there are none, raises UsageError with the source of positions."""
    backbone = backbone_in(model)
    match backbone:
        case Pvt():
            tables = []
            for number, (stage, stride) in enumerate(zip(backbone.stages, backbone.feature_strides, strict=True), 1):
                assert isinstance(stage, PvtStage)
                values = stage.pos_embed.detach()[:, int(stage.class_slot) :]
                tables.append(PositionTable(f"stage{number}", values, stage.grid, stride))
            return tables
        case Vit():
            values = backbone.pos_embed.detach()[:, backbone.special_tokens :]
            return [
                PositionTable(
                    "patches", values, backbone.grid, backbone.patch_size, rounds_up=isinstance(backbone, VitHybrid)
                )
            ]
        case PvtV2():
            why = (
                "PVT v2 has none: its positions come from the zero padding of its overlapping patches and convolutions"
            )
        case ResNet():
            why = "a ResNet has none: its positions come from the zero padding of its convolutions"
        case _:
            why = f"none that is known here, in a {type(backbone).__name__}"
    raise UsageError(
        f"no position embeddings: {why}",
        "PVT v1, ViT, DeiT and vit_hybrid have them: --weights pvt_small",
    )


def spread_places(grid: Size, count: int) -> list[tuple[int, int]]:
    """`count` x `count` cells spread evenly over a grid, in row-major order; fewer if it has fewer rows or columns."""
    rows, columns = (
        sorted({int((at + 0.5) * side / min(count, side)) for at in range(min(count, side))}) for side in grid
    )
    return [(row, column) for row in rows for column in columns]


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
