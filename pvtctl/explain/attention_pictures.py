"""Draw attention over the image: every key as the cell that it covers, coloured by its weight."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pvtctl.views.figure import head, new_figure

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Place = tuple[int, int]

_COLOURS = matplotlib.colormaps["inferno"]  # perceptually uniform, also for colour-blind readers and in grey
_LIFT, _DIM, _COVER = 40, 0.55, 0.68
_PANEL, _LARGEST = 3.1, 16.0
"""In inches: the width of one panel, and the maximum width of a figure."""


@dataclass(frozen=True)
class AttentionPanel:
    """One map: `values` (H, W), weights between 0 and 1, NaN where there is no key; a position is `stride` x `stride`
    pixels. `query` is the query's position, None for a special token; `point` the pixel (x, y) given by the user."""

    title: str
    note: str
    """Smaller text below the title."""
    values: NDArray[np.float32]
    stride: int
    query: Place | None = None
    point: tuple[float, float] | None = None
    smooth: bool = False
    spare_query: bool = False
    """Scale colours to the largest weight except the query's own, which would make all others dark."""


def draw_attention(
    image: Pixels, size: tuple[int, int], rows: Sequence[tuple[str, Sequence[AttentionPanel]]], *, title: str
) -> Figure:
    """Draw rows of panels under a title, each row starting with its label and the image.

    `image` is drawn at the model's input `size` (height, width) in pixels, in which the panels' positions are given.
    """
    across = 1 + max(len(panels) for _, panels in rows)
    columns = min(across, 5)
    lines = [list(panels[at : at + columns - 1]) for _, panels in rows for at in range(0, len(panels), columns - 1)]
    labels = [label if at == 0 else "" for label, panels in rows for at in range(0, len(panels), columns - 1)]
    width = min(_PANEL * columns, _LARGEST)
    panel = width / columns
    figure = new_figure(width + 0.9, len(lines) * (panel * size[0] / size[1] + 0.42) + 0.4)
    head(figure, title)
    grid: Any = figure.subplots(len(lines), columns, squeeze=False)
    grey = _dimmed(image)
    for axes_row, line, label in zip(grid, lines, labels, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        _draw_image(axes_row[0], image, size, line[0] if label else None, label)
        for axes, each in zip(axes_row[1:], line, strict=False):
            _draw_panel(axes, grey, size, each)
    _draw_bar(figure, grid, 0.9 * len(lines) * panel * size[0] / size[1])
    return figure


def _draw_image(axes: Axes, image: Pixels, size: tuple[int, int], panel: AttentionPanel | None, label: str) -> None:
    if not label:
        return
    axes.set_title(label, loc="left", fontsize=10, parse_math=False)
    axes.imshow(image, extent=(0, size[1], size[0], 0), interpolation="antialiased")
    if panel is not None:
        _mark(axes, size, panel)


def _draw_panel(axes: Axes, grey: Pixels, size: tuple[int, int], panel: AttentionPanel) -> None:
    axes.set_title(f"{panel.title}\n{panel.note}", loc="left", fontsize=9, parse_math=False, linespacing=1.3)
    axes.imshow(grey, extent=(0, size[1], size[0], 0), interpolation="antialiased")
    height, width = panel.values.shape
    others = panel.values.copy()
    if panel.spare_query and panel.query is not None:
        others[panel.query] = np.nan
    top = float(np.nanmax(others)) if np.isfinite(others).any() else 1.0
    axes.imshow(
        np.ma.masked_invalid(panel.values),
        extent=(0, width * panel.stride, height * panel.stride, 0),
        cmap=_COLOURS,
        vmin=0,
        vmax=max(top, 1e-12),
        alpha=_COVER,
        interpolation="bilinear" if panel.smooth else "nearest",
    )
    _mark(axes, size, panel)


def _mark(axes: Axes, size: tuple[int, int], panel: AttentionPanel) -> None:
    """Mark the query's position by a box and the given pixel by a cross, both visible on light and dark."""
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))
    if panel.query is not None:
        corner = (panel.query[1] * panel.stride, panel.query[0] * panel.stride)
        for colour, line in (("black", 2.6), ("white", 1.2)):
            axes.add_patch(
                Rectangle(corner, panel.stride, panel.stride, fill=False, edgecolor=colour, linewidth=line, zorder=3)
            )
    if panel.point is not None:
        for colour, line, length in (("black", 3.0, 9), ("white", 1.3, 8)):
            axes.plot(
                *panel.point, marker="+", color=colour, markersize=length, markeredgewidth=line, zorder=4, clip_on=False
            )


def _draw_bar(figure: Figure, grid: Any, height: float) -> None:
    """Draw the colour bar, as over a medium grey image; its top is the largest weight of each panel. The label is
    wrapped to `height` inches."""
    grey = (_LIFT + _DIM * 128) / 255
    seen = matplotlib.colors.ListedColormap(_COVER * _COLOURS(np.linspace(0, 1, 256))[:, :3] + (1 - _COVER) * grey)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), seen)
    bar = figure.colorbar(scale, ax=grid, shrink=0.9, aspect=30, pad=0.01, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0", "half", "max"], fontsize=8)
    letters = max(round(14 * height), 12)
    bar.set_label("\n".join(textwrap.wrap("attention weight (max: see each panel)", letters)), fontsize=8)
    bar.outline.set_visible(False)


def _dimmed(image: Pixels) -> Pixels:
    """The image in dark grey, so that only weights are coloured."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    lifted: Pixels = (_LIFT + _DIM * grey).clip(0, 255).astype(np.uint8)
    return np.repeat(lifted[..., None], 3, axis=2)
