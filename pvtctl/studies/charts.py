"""Charts of a study: score against parameters or time, and over epochs, with a separate panel for the paper."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvtctl.views.curves import CurvePanel as CurvePanel
from pvtctl.views.curves import Series, draw_panels
from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters

_WIDE = 20
"""Ratio of largest to smallest last value above which multiply-adds get a logarithmic axis."""


@dataclass(frozen=True)
class Place:
    """A row in a chart of score against cost; None for missing figures."""

    title: str
    printed_cost: float | None
    printed_score: float | None
    cost: float | None
    score: float | None
    deviation: float | None = None
    """Standard deviation of the score over seeds."""


def draw_score_against(
    path: Path | str, places: Sequence[Place], *, title: str, costs: tuple[str, str], scores: tuple[str, str]
) -> Path:
    """Draw the paper's points (hollow) and the measured ones in two panels, as their scales differ.

    `costs` and `scores` label the axes of the two panels. A panel without points is left out. Raises UsageError if
    both are empty.
    """
    printed = [
        Point(p.title, p.printed_cost, p.printed_score, group=p.title, hollow=True)
        for p in places
        if p.printed_cost is not None and p.printed_score is not None
    ]
    own = [
        Point(p.title, p.cost, p.score, group=p.title, y_error=p.deviation)
        for p in places
        if p.cost is not None and p.score is not None
    ]
    panels = [ScatterPanel(points, costs[at], scores[at]) for at, points in enumerate((printed, own)) if points]
    return draw_scatters(path, panels or [ScatterPanel([], "", "")], title=title, hollow="printed in the paper")


@dataclass(frozen=True)
class Curves:
    """A row's curves, one per seed, as (epoch, score); and the paper's final value."""

    title: str
    seeds: Sequence[Sequence[tuple[float, float]]]
    printed: float | None
    printed_epochs: float


def draw_study_curves(path: Path | str, rows: Sequence[Curves], *, score: str, here: str, paper: str) -> Path:
    """Draw each row's mean over seeds with a band of one standard deviation, and the paper's final values next to it.

    Raises UsageError if there is nothing to draw.
    """
    own = [_series(row) for row in rows if any(row.seeds)]
    printed = [Series(row.title, [row.printed_epochs], [row.printed]) for row in rows if row.printed is not None]
    panels = [CurvePanel(here, score, own)]
    if printed:
        panels.append(CurvePanel(paper, score, printed))
    return draw_panels(path, panels, "epoch", same_xs=False)


def _series(row: Curves) -> Series:
    """Average the epochs that all seeds have reached; later ones are left out."""
    by_epoch: dict[float, list[float]] = {}
    for seed in row.seeds:
        for epoch, value in seed:
            by_epoch.setdefault(epoch, []).append(value)
    most = max(len(values) for values in by_epoch.values())
    epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) == most)
    means = [statistics.fmean(by_epoch[epoch]) for epoch in epochs]
    if most < 2:
        return Series(row.title, epochs, means)
    spreads = [statistics.stdev(by_epoch[epoch]) for epoch in epochs]
    lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    return Series(row.title, epochs, means, lows, highs)


def draw_macs(path: Path | str, *, sides: Sequence[int], lines: Mapping[str, Sequence[float]]) -> Path:
    """Draw GMACs per image over the side of square inputs, a line per backbone, as in Figure 6 of PVT v1; on a
    logarithmic axis if the last values differ in magnitude."""
    ends = [values[-1] for values in lines.values()]
    wide = max(ends) > _WIDE * min(ends)
    series = [Series(name, list(sides), list(values)) for name, values in lines.items()]
    title = "Multiply-adds of backbone and classifier against input size"
    panel = CurvePanel(title, "GMACs an image (papers' GFLOPs)", series, from_zero=not wide, logarithmic=wide)
    return draw_panels(path, [panel], "side of a square input, pixels")
