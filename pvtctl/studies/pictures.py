"""The figures of a study, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pvtctl.errors import UsageError
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import paper_label
from pvtctl.studies.costs import ModelCost
from pvtctl.studies.results import RowResult
from pvtctl.studies.tables import Measured

Draw = Callable[[Path], object]
_SIDES = (224, 448, 672, 896, 1120)
"""Input sizes of the chart of multiply-adds, in pixels."""


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
    """Draw the score against a cost, `cost_of(row, its costs)`: published and measured."""
    from pvtctl.studies.charts import Place, draw_score_against

    places = []
    for row in all_of.rows:
        spread = row.spread(all_of.score)
        printed, own = cost_of(row, all_of.costs.get(row.row))
        score = row.printed(all_of.score)
        mean, deviation = (spread.mean, spread.deviation) if spread else (None, None)
        places.append(Place(row.title, printed, score, own, mean, deviation))
    label = all_of.label(all_of.score)
    return partial(
        draw_score_against,
        places=places,
        title=f"{label.partition(',')[0]} against {what}: the paper, and here at profile {all_of.plan.profile}",
        costs=costs,
        scores=(f"{label} ({_paper(all_of)})", f"{label} ({here})"),
    )


def _curves(all_of: Measured) -> Draw:
    from pvtctl.studies.charts import Curves, draw_study_curves

    rows = []
    for row in all_of.rows:
        seeds = [attempt.curve(all_of.score) for attempt in row.attempts]
        epochs = float(row.recipe.train.epochs) if row.recipe is not None else 0.0
        rows.append(Curves(row.title, [points for points in seeds if points], row.printed(all_of.score), epochs))
    here = f"Here, profile {all_of.plan.profile}"
    return partial(
        draw_study_curves,
        rows=rows,
        score=all_of.label(all_of.score),
        here=here,
        paper=f"Where they end in {_paper(all_of)}",
    )


def _macs(all_of: Measured) -> Draw:
    from pvtctl.cost.counting import count
    from pvtctl.studies.charts import draw_macs

    names = dict.fromkeys(row.recipe.model.backbone.name for row in all_of.rows if row.recipe is not None)
    lines = {name: [count(name, (side, side), convention="paper").macs / 1e9 for side in _SIDES] for name in names}
    return partial(draw_macs, sides=_SIDES, lines=lines)


def _paper(all_of: Measured) -> str:
    recipe: Recipe = next(row.recipe for row in all_of.rows if row.recipe is not None)
    return paper_label(recipe)
