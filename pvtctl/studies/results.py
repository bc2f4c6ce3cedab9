"""Results of a study's runs: each row's figures over its seeds, and the state of unfinished runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pvtctl.errors import PvtctlError
from pvtctl.io.names import plural
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import PrintedFigure, Recipe
from pvtctl.runs.read_run import FinishedRun, read_run
from pvtctl.studies.plan import Run, StudyPlan
from pvtctl.studies.run import Status, log_file, state_of
from pvtctl.tasks.registry import spec_of

_T = TypeVar("_T")
OF_PRETRAINING = ("top1_err", "top1_acc")
"""Figures in detectors' tables that are those of the ImageNet pretraining."""
_MEASURED_AS = {"mean_rel": "abs_rel", "abs_rel": "mean_rel"}
"""A figure and its substitute: runs have no mean AbsRel over three data sets, but AbsRel on the data used."""


@dataclass(frozen=True)
class Spread:
    """The values of a figure over the seeds of a row."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for one value."""
        return statistics.stdev(self.values) if self.n > 1 else None


@dataclass(frozen=True)
class Attempt:
    """One run of a study, finished or not."""

    run: Run
    status: Status
    reason: str | None
    """Why it failed."""
    log: Path
    """The log of its process; may not exist."""
    read: FinishedRun | None
    """Content of its directory, if there is one."""
    figures: Mapping[str, float]
    """Figures of the best weights, in the papers' units (percent); empty unless finished."""

    @property
    def epochs(self) -> int:
        """Number of epochs trained, the last one maybe in part."""
        return int(self._last("epoch"))

    @property
    def images(self) -> int:
        """Approximate number of training images seen: the last line of its log may precede its end."""
        return int(self._last("step")) * self.read.images_a_step if self.read is not None else 0

    @property
    def seconds(self) -> float | None:
        """Training time, without interruptions; None if unknown."""
        result = self.read.info.get("result") if self.read else None
        if isinstance(result, dict) and isinstance(result.get("seconds"), int | float):
            return float(result["seconds"])
        return self._last("seconds", training_only=True) or None

    @property
    def precision(self) -> str:
        return str(self.read.info.get("precision", "-")) if self.read else "-"

    @property
    def weights(self) -> str:
        """The initial weights."""
        if self.read is None:
            return "-"
        if self.run.needs and not self.other_weights:
            return self.run.needs
        return self.read.recipe.model.weights or "random"

    @property
    def other_weights(self) -> bool:
        """Whether its initial weights, which a run keeps, are not from the pretraining that it needs."""
        if self.run.needs is None or self.read is None:
            return False
        folder = f"{self.run.needs.rpartition('/')[2]}-{self.run.recipe.profile}"
        return Path(self.read.recipe.model.weights or "").name != folder

    @property
    def state(self) -> str:
        """State for a table cell."""
        if self.status == "failed":
            return f"failed: {self.reason or 'unknown'}"
        if self.status in ("stopped", "running") and self.epochs:
            return f"{self.status} at epoch {self.epochs}"
        return self.status

    def curve(self, figure: str) -> list[tuple[float, float]]:
        """(epoch, value) of every evaluation."""
        if self.read is None:
            return []
        shown = spec_of(self.run.recipe).shown_figures
        points = [
            (float(line.get("epoch", 0)), value_of(shown(line.get("ema_metrics") or line.get("metrics") or {}), figure))
            for line in self.read.evaluations
        ]
        return [(epoch, value) for epoch, value in points if value is not None]

    def _last(self, key: str, *, training_only: bool = False) -> float:
        lines: list[dict[str, Any]] = []
        if self.read is not None:
            lines = self.read.training if training_only else [*self.read.training, *self.read.evaluations]
        return max((float(line.get(key) or 0) for line in lines), default=0.0)


@dataclass(frozen=True)
class RowResult:
    """One row of the paper's table."""

    row: str
    title: str
    expect: Mapping[str, PrintedFigure]
    """Figures published in the paper."""
    recipe: Recipe | None
    """Recipe at the paper's scale; None for a row without a recipe."""
    note: str = ""
    """Why the row is not run."""
    attempts: tuple[Attempt, ...] = ()
    """One run per seed; empty for rows that were not picked."""
    added: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Figures measured after training, one value per finished run."""

    @property
    def finished(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.status == "finished"]

    def spread(self, figure: str) -> Spread | None:
        """A figure over the finished seeds; None if none has it. A shared pretraining counts once."""
        shared = figure in OF_PRETRAINING
        values = {
            (attempt.run.needs if shared else None) or attempt.run.name: value_of(attempt.figures, figure)
            for attempt in self.finished
        }
        known = [value for value in (*values.values(), *self.added.get(figure, ())) if value is not None]
        finite = [value for value in known if math.isfinite(value)]
        return Spread(tuple(finite)) if finite else None

    def printed(self, figure: str) -> float | None:
        """The figure in the paper, or else in its code."""
        value = value_of(self.expect, figure)
        return None if value is None else value.paper if value.paper is not None else value.code

    @property
    def state(self) -> str:
        """State for a table cell; empty when all seeds finished."""
        if not self.attempts:
            return "not run" if self.recipe is None else "not picked"
        unfinished = [attempt for attempt in self.attempts if attempt.status != "finished"]
        if not unfinished:
            return ""
        said = "; ".join(dict.fromkeys(attempt.state for attempt in unfinished))
        if len(self.attempts) == 1:
            return said
        return f"{said} ({len(unfinished)} of {plural(len(self.attempts), 'seed')})"


def value_of(figures: Mapping[str, _T], name: str) -> _T | None:
    """A figure by its published or its measured name."""
    if name in figures:
        return figures[name]
    return figures.get(_MEASURED_AS.get(name, ""))


def collect_results(plan: StudyPlan) -> list[RowResult]:
    """All rows of the table in order, rows that are not run last. Unreadable runs count as failed.

    Raises UsageError when a directory of the study contains a run of other settings.
    """
    rows = []
    for row in plan.rows:
        recipe = load_recipe(plan.source.path, row)
        attempts = tuple(_attempt(plan, run) for run in plan.row_runs(row)) if row in plan.picked else ()
        rows.append(RowResult(row, recipe.title or row, recipe.expect, recipe, attempts=attempts))
    rows += [
        RowResult(name, printed.title, printed.expect, None, printed.note)
        for name, printed in plan.source.printed.items()
    ]
    return rows


def pretrainings(plan: StudyPlan) -> list[Attempt]:
    """The pretraining runs that rows start from."""
    return [_attempt(plan, run) for run in plan.runs if run.kind == "pretraining"]


def _attempt(plan: StudyPlan, run: Run) -> Attempt:
    state = state_of(run)
    status, reason, read, figures = state.status, state.reason, None, {}
    try:
        if state.status != "missing" and (run.out / "run.json").is_file():
            read = read_run(run.out, finished=False)
        if read is not None and status == "finished":
            figures = spec_of(run.recipe).shown_figures(read.score)
            found = Attempt(run, status, reason, log_file(run), read, figures)
            return found if found.other_weights else replace(found, figures={**figures, **_of_pretraining(plan, run)})
    except (PvtctlError, KeyError) as error:
        status, read = "failed", None
        reason = error.message if isinstance(error, PvtctlError) else f"its score lacks {error}"
    return Attempt(run, status, reason, log_file(run), read, figures)


def _of_pretraining(plan: StudyPlan, run: Run) -> dict[str, float]:
    """Top-1 of the ImageNet weights that a run started from, if its table has it."""
    before = plan.pretraining_of(run)
    if before is None or not any(name in run.recipe.expect for name in OF_PRETRAINING):
        return {}
    if state_of(before).status != "finished":
        return {}
    found = spec_of(before.recipe).shown_figures(read_run(before.out).score)
    return {name: found[name] for name in OF_PRETRAINING}
