"""Labelled scatter plots of models or runs against their cost."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from pvtctl.errors import UsageError
from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, save, shorten, style
from pvtctl.views.placing import TEXT_SIZE, canvas_place, pixels, place_labels

COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, "#56B4E9", "#000000")
MARKERS = "osD^vPX"
"""Groups differ in both, so that they can be distinguished in grey too."""
FAMILIES = ("pvt_v1", "pvt_v2", "resnet", "vit", "timm")
"""Groups that look the same in every picture, whichever others are in it."""
LONGEST_LABEL = 34
_LOGARITHMIC = 25
"""Ratio of largest to smallest x above which the axis is logarithmic."""
_MARKER = 7.5
"""Size in points."""


@dataclass(frozen=True)
class Point:
    """One model or run. Points of a `group` share colour and marker."""

    label: str
    x: float
    y: float
    group: str = ""
    x_error: float | None = None
    y_error: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Ceiling:
    """A line through corners (x, y), with a label along its first stretch."""

    label: str
    corners: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ScatterPanel:
    """One pair of axes."""

    points: Sequence[Point]
    xlabel: str
    ylabel: str
    ceilings: Sequence[Ceiling] = ()
    logarithmic: bool = False
    """Both axes; all values are positive."""
    front: bool = False
    """Draw the Pareto front: the points that no other beats in both figures."""
    higher_is_better: bool = True
    """Of y; less x is always better."""
    bound: float | None = None
    """A line at this x."""


def draw_scatters(path: Path | str, panels: Sequence[ScatterPanel], *, title: str, hollow: str | None = None) -> Path:
    """Draw panels of labelled points side by side with one legend, as a PNG or SVG file.

    Labels lie near their points, inside the axes, and overlap neither points nor each other as long as there is room; a
    line connects one to its point if it had to move away. Non-finite points are left out. `hollow` is the legend's label
    of hollow points. Raises UsageError if no point is left.
    """
    panels = [
        replace(panel, points=[p for p in panel.points if math.isfinite(p.x) and math.isfinite(p.y)])
        for panel in panels
    ]
    if not any(panel.points for panel in panels):
        raise UsageError("there is nothing to draw: no model has both figures", "measure some first")
    figure = new_figure(7.2 if len(panels) == 1 else 5.4 * len(panels), 4.8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    looks = _looks(list(dict.fromkeys(point.group for panel in panels for point in panel.points)))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        style(axes, xlabel=panel.xlabel, ylabel=panel.ylabel)
        for point in panel.points:
            _draw_point(axes, point, *looks[point.group])
        if panel.logarithmic:
            axes.set(xscale="log", yscale="log")
        _set_limits(axes, panel.points)
        for ceiling in panel.ceilings:
            _draw_ceiling(axes, ceiling)
        _draw_front(axes, panel)
        if panel.bound is not None:
            axes.axvline(panel.bound, color=RED, linewidth=1.0, zorder=1)
    _add_legend(figure, looks, hollow if any(p.hollow for panel in panels for p in panel.points) else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks become boxes, as in `save`
        figure.draw_without_rendering()  # fixes the positions of points
        for axes, panel in zip(all_axes, panels, strict=True):
            _place_labels(axes, panel)
    return save(figure, path)


def _looks(groups: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group: a family's own, then others in their order; all differ, up to 49."""
    others = [name for name in groups if name not in FAMILIES]
    families = FAMILIES if len(others) < len(groups) else ()
    looks = {}
    for at, name in enumerate([*families, *others]):
        looks[name] = COLOURS[at % len(COLOURS)], MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]
    return {name: look for name, look in looks.items() if name in groups}


def _draw_point(axes: Axes, point: Point, colour: str, marker: str) -> None:
    axes.errorbar(
        point.x,
        point.y,
        xerr=point.x_error or None,
        yerr=point.y_error or None,
        fmt=marker,
        color=colour,
        markersize=_MARKER,
        markerfacecolor="white" if point.hollow else colour,
        markeredgewidth=1.5,
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )


def _draw_ceiling(axes: Axes, ceiling: Ceiling) -> None:
    xs, ys = zip(*ceiling.corners, strict=True)
    axes.plot(xs, ys, color=GREY, linewidth=1.4, zorder=1)
    slope = math.degrees(math.atan2(ys[1] - ys[0], xs[1] - xs[0]))
    axes.text(
        xs[0], ys[0], f" {ceiling.label}", color=GREY, fontsize=TEXT_SIZE, va="bottom", rotation=slope,
        rotation_mode="anchor", transform_rotates_text=True, parse_math=False,
    )  # fmt: skip


def pareto_front(points: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[int]:
    """Positions of the (x, y) that no other beats: none has less or equal x and a better y, or less x and an equal y.

    In the order of x.
    """
    sign = 1 if higher_is_better else -1
    best, front = -math.inf, list[int]()
    for at in sorted(range(len(points)), key=lambda at: (points[at][0], -sign * points[at][1])):
        value = sign * points[at][1]
        if value > best or (front and points[front[-1]] == points[at]):
            front.append(at)
            best = value
    return front


def _front(panel: ScatterPanel) -> list[tuple[float, float]]:
    """The points of the Pareto front; none if it is not drawn."""
    places = [(point.x, point.y) for point in panel.points] if panel.front else []
    return [places[at] for at in pareto_front(places, higher_is_better=panel.higher_is_better)]


def _draw_front(axes: Axes, panel: ScatterPanel) -> None:
    """The best score that is to be had for a cost, as steps."""
    if len(front := _front(panel)) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1.2, linestyle="--", zorder=1)


def _set_limits(axes: Axes, points: Sequence[Point]) -> None:
    """Leave room around the points for labels; the x axis is logarithmic if costs differ in magnitude."""
    axes.margins(x=0.2, y=0.14)
    xs = [point.x for point in points]
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, at: f"{value:g}"))
    if xs and min(xs) > 0 and max(xs) > _LOGARITHMIC * min(xs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, at: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif xs and min(xs) >= 0 and axes.get_xlim()[0] < 0:
        axes.set_xlim(left=0)


def _add_legend(figure: Figure, looks: Mapping[str, tuple[str, str]], hollow: str | None) -> None:
    """Draw the legend below the axes; none for a single group without a name."""
    shown = [(name, *look) for name, look in looks.items() if name and len(looks) > 1]
    entries = [(name, colour, marker, colour) for name, colour, marker in shown]
    entries += [(hollow, GREY, "o", "white")] if hollow else []
    handles = [
        Line2D(
            [], [], linestyle="", color=colour, marker=marker, markersize=_MARKER, markerfacecolor=face,
            label=shorten(name, LONGEST_LABEL),
        )
        for name, colour, marker, face in entries
    ]  # fmt: skip
    if handles:
        inches = max(1.8, 0.6 + 0.075 * max(len(str(handle.get_label())) for handle in handles))
        columns = min(len(handles), max(1, int(figure.get_figwidth() / inches)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _place_labels(axes: Axes, panel: ScatterPanel) -> None:
    markers = [_box_of_marker(axes, point) for point in panel.points]
    bars = [box for point in panel.points for box in _boxes_of_bars(axes, point)]
    solid = [*markers, *(text.get_window_extent() for text in axes.texts)]
    labels = [(shorten(point.label, LONGEST_LABEL), (point.x, point.y)) for point in panel.points if point.label]
    place_labels(axes, labels, solid, [*_boxes_of_lines(axes, panel), *bars])


def _boxes_of_lines(axes: Axes, panel: ScatterPanel) -> list[Bbox]:
    """Bounding boxes of the steps of the front and of the bound, in pixels of the canvas."""
    places = [canvas_place(axes, *point) for point in _front(panel)]
    boxes = []
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        boxes += [
            Bbox.from_extents(x0, y0 - 2, x1, y0 + 2),
            Bbox.from_extents(x1 - 2, min(y0, y1), x1 + 2, max(y0, y1)),
        ]
    if panel.bound is not None:
        x, inside = canvas_place(axes, panel.bound, 0.0)[0], axes.get_window_extent()
        boxes.append(Bbox.from_extents(x - 2, inside.y0, x + 2, inside.y1))
    return boxes


def _box_of_marker(axes: Axes, point: Point) -> Bbox:
    (x, y), reach = canvas_place(axes, point.x, point.y), pixels(axes, _MARKER / 2 + 1.5)
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _boxes_of_bars(axes: Axes, point: Point) -> list[Bbox]:
    """Bounding boxes of a point's error bars, in pixels of the canvas."""
    boxes = []
    for dx, dy in ((point.x_error or 0, 0), (0, point.y_error or 0)):
        if dx or dy:
            (x0, y0), (x1, y1) = (canvas_place(axes, point.x + sign * dx, point.y + sign * dy) for sign in (-1, 1))
            boxes.append(Bbox.from_extents(x0 - 3, y0 - 3, x1 + 3, y1 + 3))
    return boxes
