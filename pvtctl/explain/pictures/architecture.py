"""Draw models side by side as columns of boxes, one per stage, with shapes, contents and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from pvtctl.views.figure import BLUE, GREY, ORANGE, new_figure

_WIDTH, _GAP, _BETWEEN = 3.9, 0.26, 0.55
_LINE, _PADDING, _BAR = 0.185, 0.1, 0.085
_TOP, _BOTTOM = 0.95, 0.34
_MAP, _BAR_LENGTH = 0.95, 1.35
"""In inches: a box, the gaps, lines of text, the square for a map's size, the longest bar."""


_LEGEND = ("Bars: orange parameters, blue GMACs; one scale each.", "Squares: the map in the image at half its size.")


@dataclass(frozen=True)
class Box:
    """A part of a model. `shape` (channels, height, width) of its output; None if that is not a map."""

    title: str
    lines: tuple[str, ...]
    params: int
    macs: int
    shape: tuple[int, int, int] | None = None
    kind: str = "backbone"
    """`backbone`, or `above` for neck, head or classifier."""


@dataclass(frozen=True)
class Column:
    """A model on one image of `size` (height, width): its boxes in order of execution, and its totals."""

    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    params: int
    macs: int

    def to_json(self) -> dict[str, Any]:
        """Boxes and totals, as plain counts."""
        return asdict(self)


def draw_architectures(columns: Sequence[Column]) -> Figure:
    """Draw all `columns`, with common scales of the bars for parameters and for MACs."""
    height = max(_TOP + sum(_height(box) + _GAP for box in column.boxes) + _BOTTOM for column in columns)
    width = len(columns) * (_WIDTH + _BETWEEN) + 0.1
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for at, text in enumerate(_LEGEND):
        axes.text(0.3, height - _BOTTOM + 0.17 * at, text, fontsize=8, color=GREY, va="bottom")
    boxes = [box for column in columns for box in column.boxes]
    most = max(box.params for box in boxes) or 1, max(box.macs for box in boxes) or 1
    for at, column in enumerate(columns):
        _draw_column(axes, 0.3 + at * (_WIDTH + _BETWEEN), column, most)
    return figure


def _draw_column(axes: Axes, x: float, column: Column, most: tuple[int, int]) -> None:
    axes.text(x, 0.24, column.name, fontsize=13, fontweight="bold", va="center", parse_math=False)
    sums = f"{_parameters(column.params)} parameters, {_giga(column.macs)} GMACs"
    axes.text(x, 0.48, sums, fontsize=10, va="center")
    y = _TOP
    axes.text(x, 0.7, f"image, 3 × {column.size[0]} × {column.size[1]}", fontsize=9, color=GREY, va="center")
    for at, box in enumerate(column.boxes):
        if at:
            axes.add_patch(
                FancyArrowPatch(
                    (x + _WIDTH / 2, y - _GAP), (x + _WIDTH / 2, y), arrowstyle="-|>", mutation_scale=9, color=GREY
                )
            )
        _draw_box(axes, x, y, box, column.size, most)
        y += _height(box) + _GAP


def _height(box: Box) -> float:
    bars = 2 * (_BAR + 0.06) + 0.06 if box.params or box.macs else 0.0
    return 2 * _PADDING + _LINE * (1 + len(box.lines)) + bars


def _draw_box(axes: Axes, x: float, y: float, box: Box, size: tuple[int, int], most: tuple[int, int]) -> None:
    height = _height(box)
    face, edge = ("#f4f8fb", BLUE) if box.kind == "backbone" else ("#fdf7ec", ORANGE)
    axes.add_patch(Rectangle((x, y), _WIDTH, height, facecolor=face, edgecolor=edge, linewidth=1.1))
    line = y + _PADDING + _LINE / 2
    axes.text(x + 0.12, line, box.title, fontsize=10, fontweight="bold", va="center", parse_math=False)
    if box.shape is not None:
        shape = " × ".join(map(str, box.shape))
        axes.text(x + _WIDTH - 0.12, line, shape, fontsize=10, va="center", ha="right", fontweight="bold")
        _draw_map(axes, x + _WIDTH - 0.12, y + height - _PADDING, height - 2 * _PADDING - _LINE - 0.08, box.shape, size)
    for text in box.lines:
        line += _LINE
        axes.text(x + 0.12, line, text, fontsize=8.5, va="center", parse_math=False)
    bar = line + _LINE / 2 + 0.06
    for value, largest, colour, words in (
        (box.params, most[0], ORANGE, f"{_parameters(box.params)} parameters"),
        (box.macs, most[1], BLUE, f"{_giga(box.macs)} GMACs"),
    ):
        if box.params or box.macs:
            length = max(_BAR_LENGTH * value / largest, 0.01)
            axes.add_patch(Rectangle((x + 0.12, bar), length, _BAR, facecolor=colour, linewidth=0))
            axes.text(x + 0.12 + length + 0.06, bar + _BAR / 2, words, fontsize=7.5, va="center")
            bar += _BAR + 0.06


def _draw_map(
    axes: Axes, right: float, bottom: float, room: float, shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    """Draw the image's outline and the map in it, as large as its side relative to an image at stride 2."""
    unit = min(_MAP / size[1], room / size[0])
    height, width = size[0] * unit, size[1] * unit
    axes.add_patch(Rectangle((right - width, bottom - height), width, height, fill=False, edgecolor="#c5ccd3", lw=0.7))
    inner = 2 * shape[2] * unit, 2 * shape[1] * unit
    axes.add_patch(Rectangle((right - inner[0], bottom - inner[1]), *inner, facecolor="#8fb8d6", linewidth=0))


def _parameters(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count / 1e3:.3g} k"


def _giga(count: int) -> str:
    return f"{count / 1e9:.3g}" if count >= 1e7 else f"{count / 1e9:.1g}"
