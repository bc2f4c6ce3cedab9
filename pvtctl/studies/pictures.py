"""The figures of a study, each as PNG and SVG: score against parameters or time, over epochs, and multiply-adds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pvtctl.cost.counting import count
from pvtctl.errors import UsageError
from pvtctl.runs.paper_table import paper_label
from pvtctl.studies.costs import ModelCost
from pvtctl.studies.results import RowResult
from pvtctl.studies.tables import Measured
from pvtctl.views.curves import CurvePanel, Series, draw_panels
from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters

Draw = Callable[[Path], object]
_SIDES = (224, 448, 672, 896, 1120)
"""Input sizes of the chart of multiply-adds, in pixels."""
_WIDE = 20
"""Ratio of largest to smallest last value above which multiply-adds get a logarithmic axis."""


def draw_pictures(all_of: Measured, folder: Path) -> dict[str, Path]:
    """Draw the study's figures; title -> SVG, next to a PNG of the same name. Figures without points are left out."""
    about = all_of.plan.about
    known: dict[str, tuple[str, Callable[[Measured], Draw]]] = {
        "params": ("Score against parameters", _params),
        "curves": ("Score over epochs", _curves),
        "macs": ("Multiply-adds against input size", _macs),
        "tradeoff": ("Score against time", _tradeoff),
    }
    drawn = {}
    for name in about.figures if about is not None else ("params",):
        title, picture = known[name]
        try:
            draw = picture(all_of)
            for ending in ("png", "svg"):
                draw(folder / f"{name}.{ending}")
        except UsageError:  # nothing to draw yet
            continue
        drawn[title] = folder / f"{name}.svg"
    return drawn


def _params(all_of: Measured) -> Draw:
    def cost_of(row: RowResult, cost: ModelCost | None) -> tuple[float | None, float | None]:
        printed = row.printed("params_m")
        if cost is None:
            return printed, None
        # counted, if not in the table
        return cost.params_m if printed is None else printed, cost.trained_params_m

    costs = ("parameters of the paper's model, M", "parameters of the trained model, M")
    return _score_against(all_of, "parameters", cost_of, costs, "here")


def _tradeoff(all_of: Measured) -> Draw:
    def cost_of(row: RowResult, cost: ModelCost | None) -> tuple[float | None, float | None]:
        printed = row.printed("latency_ms")
        return row.printed("time_ms") if printed is None else printed, cost.value("latency_ms") if cost else None

    costs = ("latency in the paper, ms", "latency of the full-size model here, ms")
    return _score_against(all_of, "time", cost_of, costs, "trained here")


def _score_against(
    all_of: Measured,
    what: str,
    cost_of: Callable[[RowResult, ModelCost | None], tuple[float | None, float | None]],
    costs: tuple[str, str],
    here: str,
) -> Draw:
    """The score against a cost, `cost_of(row, its costs)`: the paper's points (hollow) and the measured ones in two
    panels, as their scales differ. A panel without points is left out."""
    printed, own = [], []
    for row in all_of.rows:
        printed_cost, own_cost = cost_of(row, all_of.costs.get(row.row))
        score, spread = row.printed(all_of.score), row.spread(all_of.score)
        if printed_cost is not None and score is not None:
            printed.append(Point(row.title, printed_cost, score, group=row.title, hollow=True))
        if own_cost is not None and spread is not None:
            own.append(Point(row.title, own_cost, spread.mean, group=row.title, y_error=spread.deviation))
    label = all_of.label(all_of.score)
    panels = [
        ScatterPanel(points, cost, f"{label} ({where})")
        for points, cost, where in ((printed, costs[0], paper_label(all_of.recipe)), (own, costs[1], here))
        if points
    ]
    shown = ", and ".join([*all_of.of_paper("the paper"), f"here at profile {all_of.plan.profile}"])
    title = f"{label.partition(',')[0]} against {what}: {shown}"
    panels = panels or [ScatterPanel([], "", "")]
    return partial(draw_scatters, panels=panels, title=title, hollow="printed in the paper")


def _curves(all_of: Measured) -> Draw:
    """Each row's mean over seeds with a band of one standard deviation, and the paper's final values next to it."""
    own, printed = [], []
    for row in all_of.rows:
        seeds = [points for attempt in row.attempts if (points := attempt.curve(all_of.score))]
        if seeds:
            own.append(_mean_curve(row.title, seeds))
        if (end := row.printed(all_of.score)) is not None:
            printed.append(Series(row.title, [float(row.recipe.train.epochs) if row.recipe else 0.0], [end]))
    score = all_of.label(all_of.score)
    panels = [CurvePanel(f"Here, profile {all_of.plan.profile}", score, own)]
    if printed:
        panels.append(CurvePanel(f"Where they end in {paper_label(all_of.recipe)}", score, printed))
    return partial(draw_panels, panels=panels, xlabel="epoch", same_xs=False)


def _mean_curve(title: str, seeds: Sequence[Sequence[tuple[float, float]]]) -> Series:
    """Average the epochs that all seeds have reached; later ones are left out."""
    by_epoch: dict[float, list[float]] = {}
    for seed in seeds:
        for epoch, value in seed:
            by_epoch.setdefault(epoch, []).append(value)
    most = max(len(values) for values in by_epoch.values())
    epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) == most)
    means = [statistics.fmean(by_epoch[epoch]) for epoch in epochs]
    if most < 2:
        return Series(title, epochs, means)
    spreads = [statistics.stdev(by_epoch[epoch]) for epoch in epochs]
    lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    return Series(title, epochs, means, lows, highs)


def _macs(all_of: Measured) -> Draw:
    """GMACs per image over the side of square inputs, a line per backbone, as in Figure 6 of PVT v1; on a logarithmic
    axis if the last values differ in magnitude."""
    names = dict.fromkeys(row.recipe.model.backbone.at_width(1) for row in all_of.rows if row.recipe is not None)
    series = [
        Series(name, list(_SIDES), [count(name, (side, side), convention="paper").macs / 1e9 for side in _SIDES])
        for name in names
    ]
    ends = [each.means[-1] for each in series]
    wide = max(ends) > _WIDE * min(ends)
    title = "Multiply-adds of backbone and classifier against input size"
    panel = CurvePanel(title, "GMACs an image (papers' GFLOPs)", series, from_zero=not wide, logarithmic=wide)
    return partial(draw_panels, panels=[panel], xlabel="side of a square input, pixels")
