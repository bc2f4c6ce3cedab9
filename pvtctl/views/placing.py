"""Labels of points: near their point, and clear of points and of each other as long as there is room."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from pvtctl.views.figure import GREY

TEXT_SIZE = 8.5
"""In points, as are all distances here."""
_GAPS = (7, 11, 16, 22, 30, 40, 52, 66, 82, 100)
"""Between a point and its label."""
_NEAR = 11
"""Labels beyond it get a line to their point."""
_HIDDEN, _NOT_OWN, _CROSSED, _AWAY = 2.0, 1.5, 0.6, 0.04
"""What it costs to hide part of a point or label, to lie nearer to another point than to the own, to lie over a thin line,
and each further point of distance.
"""
_ROUNDS = 3

Place = tuple[float, float]
_Boxes = NDArray[np.float64]
"""(N, 4): left, bottom, right and top in pixels of the canvas."""


@dataclass(frozen=True)
class _Spot:
    """Where a label lies."""

    box: _Boxes
    """One."""
    away: bool
    """So far from its point that a line must connect them."""
    cost: float


def place_labels(axes: Axes, labels: Sequence[tuple[str, Place]], solid: Sequence[Bbox], lines: Sequence[Bbox]) -> None:
    """Write labels next to their points (x, y), crowded ones first, and again as the others lie then.

    `solid` are the boxes of what labels must not hide, `lines` those of thin lines, which a label crosses rather than lie
    far away; both in pixels of the canvas, on which the positions of points are fixed.
    """
    places = [canvas_place(axes, *point) for _, point in labels]
    points = np.array(places).reshape(-1, 2)
    notes = [_new_label(axes, text, point) for text, point in labels]
    sizes = [(extent.width, extent.height) for extent in map(_extent, notes)]
    fixed, thin = _boxes(solid), _boxes(lines)

    def crowd(at: int) -> float:
        return sum(1 / (1 + math.dist(places[at], place)) for place in places)

    order = sorted(range(len(labels)), key=crowd, reverse=True)
    spots: dict[int, _Spot] = {}
    for _ in range(_ROUNDS):
        for at in order:
            others = [spot.box for other, spot in spots.items() if other != at]
            spots[at] = _best_spot(axes, places[at], sizes[at], points, np.concatenate([fixed, *others]), thin)
    for at, spot in spots.items():
        _move(axes, labels[at][1], notes[at], places[at], spot)
        if spot.away or (_overlaps(spot.box, thin) > 0).any():
            notes[at].set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85})


def canvas_place(axes: Axes, x: float, y: float) -> Place:
    """Position in pixels of the canvas."""
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def pixels(axes: Axes, points: float) -> float:
    """A length in pixels of the canvas."""
    return points * axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]


def _new_label(axes: Axes, text: str, point: Place) -> Annotation:
    note = axes.annotate(
        text, point, xytext=(0, 0), textcoords="offset points", fontsize=TEXT_SIZE, color="#1a1a1a", ha="center",
        va="center", parse_math=False, zorder=4,
    )  # fmt: skip
    note.set_in_layout(False)
    return note


def _extent(note: Annotation) -> Bbox:
    canvas = note.get_figure(root=True).canvas  # type: ignore[union-attr]
    assert isinstance(canvas, FigureCanvasAgg)
    return note.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]


def _best_spot(
    axes: Axes, at: Place, size: tuple[float, float], points: NDArray[np.float64], solid: _Boxes, lines: _Boxes
) -> _Spot:
    """The cheapest spot for a label of `size` around the point at `at`, one of `points` (N, 2)."""
    (width, height), inside = size, _boxes([axes.get_window_extent()])
    best = None
    for dx, dy, gap in _offsets(width, height, pixels(axes, 1)):
        cost = _AWAY * (gap - _GAPS[0])
        if best is not None and cost >= best.cost:
            break
        x, y = at[0] + dx, at[1] + dy
        box = np.array([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
        hidden, crossed = _overlaps(box, solid), _overlaps(box, lines)
        outside = width * height - _overlaps(box, inside).sum()
        cost += _HIDDEN * np.count_nonzero(hidden) + _CROSSED * np.count_nonzero(crossed)
        cost += (4 * hidden.sum() + 10 * outside) / height**2
        end, gaps = _nearest(box, at), np.linalg.norm(points - points.clip(box[:, :2], box[:, 2:]), axis=1)
        cost += _NOT_OWN * (gaps.min() < math.dist(at, end) - 1)
        if gap > _NEAR:
            cost += _HIDDEN * _passed(at, end, solid) + _CROSSED / 2 * _passed(at, end, lines)
        if best is None or cost < best.cost - 1e-6:
            best = _Spot(box, gap > _NEAR, float(cost))
    assert best is not None
    return best


def _offsets(width: float, height: float, unit: float) -> Iterator[tuple[float, float, int]]:
    """Candidate centres of a label around its point, with the gap, near ones first: right, left, above, below, between."""
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    between = [(right, up) for right in (0.25, 0.5, 0.75, -0.25, -0.5, -0.75) for up in (1, -1)]
    for gap in _GAPS:
        for right, up in itertools.chain(directions, between):
            yield right * (width / 2 + gap * unit), up * (height / 2 + gap * unit), gap


def _move(axes: Axes, point: Place, note: Annotation, at: Place, spot: _Spot) -> None:
    """Put a label in its spot; one that is away gets a line to its point."""
    scale = pixels(axes, 1)
    left, bottom, right, top = spot.box[0].tolist()
    note.set_position((((left + right) / 2 - at[0]) / scale, ((bottom + top) / 2 - at[1]) / scale))
    if spot.away:
        x, y = _nearest(spot.box, at)
        tie = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5}
        axes.annotate(
            "", point, xytext=((x - at[0]) / scale, (y - at[1]) / scale), textcoords="offset points", arrowprops=tie,
            zorder=2,
        ).set_in_layout(False)  # fmt: skip


def _boxes(boxes: Sequence[Bbox]) -> _Boxes:
    return np.array([box.extents for box in boxes], float).reshape(-1, 4)


def _overlaps(box: _Boxes, others: _Boxes) -> NDArray[np.float64]:
    """The area that one box shares with each of the others."""
    sides = np.minimum(box[:, 2:], others[:, 2:]) - np.maximum(box[:, :2], others[:, :2])
    return np.asarray(sides.clip(min=0).prod(1))


def _nearest(box: _Boxes, at: Place) -> Place:
    """The place in a box that is nearest to `at`."""
    x, y = np.clip(at, box[0, :2], box[0, 2:]).tolist()
    return x, y


def _passed(start: Place, end: Place, boxes: _Boxes) -> int:
    """How many boxes a line passes; those that `start` is in do not count."""
    along = np.linspace(start, end, 24)[:, None]
    inside = np.all((boxes[:, :2] < along) & (along < boxes[:, 2:]), axis=2)
    return int(np.sum(np.any(inside, axis=0) & ~inside[0]))
