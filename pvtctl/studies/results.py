"""What the runs of a study came to: each row's figures over its seeds, and what became of runs that did not finish."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pvtctl.errors import PvtctlError
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import PrintedFigure, Recipe
from pvtctl.runs.read_run import FinishedRun, read_run
from pvtctl.studies.plan import Run, StudyPlan
from pvtctl.studies.run import Status, log_file, state_of
from pvtctl.tasks.registry import spec_of

_T = TypeVar("_T")
OF_PRETRAINING = ("top1_err", "top1_acc")
"""Figures that tables of detectors take from the ImageNet training before."""
_MEASURED_AS = {"mean_rel": "abs_rel"}
"""A printed figure that no run has under that name -> what stands for it: the mean deviation over three sets, the deviation
on the data at hand."""


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of a row."""

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
    """One run of a study, however it ended."""

    run: Run
    status: Status
    reason: str | None
    """Why it failed."""
    log: Path
    """What its process said; it may not be there."""
    read: FinishedRun | None
    """Its folder, where there is one."""
    figures: Mapping[str, float]
    """Of the best weights, in the papers' units (percent); empty unless finished."""

    @property
    def epochs(self) -> int:
        """Epochs that it has trained, the last one maybe in part."""
        return int(self._last("epoch"))

    @property
    def images(self) -> int:
        """Training images that it has seen, about: the last line of its log may lie before its end."""
        return int(self._last("step")) * self.read.images_a_step if self.read is not None else 0

    @property
    def seconds(self) -> float | None:
        """Of the whole training, stops left out; None where nothing tells."""
        result = self.read.info.get("result") if self.read else None
        if isinstance(result, dict) and isinstance(result.get("seconds"), int | float):
            return float(result["seconds"])
        return self._last("seconds", training_only=True) or None

    @property
    def precision(self) -> str:
        return str(self.read.info.get("precision", "-")) if self.read else "-"

    @property
    def weights(self) -> str:
        """What it began from."""
        if self.read is None:
            return "-"
        if self.run.needs and not self.other_weights:
            return self.run.needs
        return self.read.recipe.model.weights or "random"

    @property
    def other_weights(self) -> bool:
        """Whether it began from something else than the pretraining that it needs: a run keeps what it began from."""
        if self.run.needs is None or self.read is None:
            return False
        folder = f"{self.run.needs.rpartition('/')[2]}-{self.run.recipe.profile}"
        return Path(self.read.recipe.model.weights or "").name != folder

    @property
    def state(self) -> str:
        """In words, for a cell."""
        if self.status == "failed":
            return f"failed: {self.reason or 'unknown'}"
        if self.status in ("stopped", "running") and self.epochs:
            return f"{self.status} at epoch {self.epochs}"
        return self.status

    def curve(self, figure: str) -> list[tuple[float, float]]:
        """(epoch, figure) of every evaluation."""
        if self.read is None:
            return []
        points = []
        for line in self.read.evaluations:
            found = value_of(
                spec_of(self.run.recipe).shown_figures(line.get("ema_metrics") or line.get("metrics") or {}), figure
            )
            if found is not None:
                points.append((float(line.get("epoch", 0)), found))
        return points

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
    """What the paper prints."""
    recipe: Recipe | None
    """At the paper's scale; None for a row that no recipe runs."""
    note: str = ""
    """Why it is not run."""
    attempts: tuple[Attempt, ...] = ()
    """One a seed; empty for rows that were not picked."""
    added: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Figures that were measured after training, one a finished run."""

    @property
    def finished(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.status == "finished"]

    def spread(self, figure: str) -> Spread | None:
        """A figure over the finished seeds; None where none has it. A pretraining that they share counts once."""
        shared = figure in OF_PRETRAINING
        values = {
            (attempt.run.needs if shared else None) or attempt.run.name: value_of(attempt.figures, figure)
            for attempt in self.finished
        }
        known = [value for value in (*values.values(), *self.added.get(figure, ())) if value is not None]
        finite = [value for value in known if math.isfinite(value)]
        return Spread(tuple(finite)) if finite else None

    def printed(self, figure: str) -> float | None:
        """What the paper prints, or else its code states."""
        value = value_of(self.expect, figure)
        return None if value is None else value.paper if value.paper is not None else value.code

    @property
    def state(self) -> str:
        """In words: empty when all seeds finished."""
        if not self.attempts:
            return "not run" if self.recipe is None else "not picked"
        unfinished = [attempt for attempt in self.attempts if attempt.status != "finished"]
        if not unfinished:
            return ""
        said = "; ".join(dict.fromkeys(attempt.state for attempt in unfinished))
        if len(self.attempts) == 1:
            return said
        return f"{said} ({len(unfinished)} of {len(self.attempts)} seeds)"


def value_of(figures: Mapping[str, _T], name: str) -> _T | None:
    """A figure by its printed or its measured name."""
    if name in figures:
        return figures[name]
    for printed, own in _MEASURED_AS.items():
        if name in (printed, own):
            return figures.get(own if name == printed else printed)
    return None


def collect_results(plan: StudyPlan) -> list[RowResult]:
    """Every row of the table in its order, the printed ones that nobody runs last. Runs that cannot be read have failed.

    Raises UsageError when a folder of the study holds a run of other settings.
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
    """The runs that rows begin from."""
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
    """Top-1 of the ImageNet weights that a run began from, where its table prints it."""
    before = plan.pretraining_of(run)
    if before is None or not any(name in run.recipe.expect for name in OF_PRETRAINING):
        return {}
    if state_of(before).status != "finished":
        return {}
    found = spec_of(before.recipe).shown_figures(read_run(before.out).score)
    return {name: found[name] for name in OF_PRETRAINING}
