"""Tables of a study's report, as HTML parts, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvtctl.io.names import plural
from pvtctl.io.tables import csv_text, markdown_line, markdown_table
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import label_of
from pvtctl.studies.claims import COUNTED, TIMES, ClaimVerdict
from pvtctl.studies.costs import ModelCost
from pvtctl.studies.plan import StudyPlan
from pvtctl.studies.results import Attempt, RowResult
from pvtctl.views.report import ReportTable

_COSTS = (*COUNTED, *TIMES)
_LABELS = {
    "top1_err": "top-1 error, %",
    "top1_acc": "top-1, %",
    "gmacs": "multiply-adds, G",
    "latency_ms": "latency, ms",
    "time_ms": "latency, ms",
    "train_memory_gib": "memory of training, GiB",
    "resolution_loss": "AbsRel lost at 5/3 of the size, %",
    "mean_rel": "AbsRel, mean of the three (here: of the data)",
}
_BUSY = 0.1
"""Fraction of CPU time used by other processes above which times are unreliable."""
_FRACTIONS = ("_rel", "abs_rel", "absrel", "delta", "rmse", "sq_rel", "log10")


@dataclass(frozen=True)
class Measured:
    """The data of all tables."""

    plan: StudyPlan
    rows: Sequence[RowResult]
    costs: Mapping[str, ModelCost]
    verdicts: Sequence[ClaimVerdict]
    pretrainings: Sequence[Attempt]

    @property
    def figures(self) -> list[str]:
        """Columns of the table: the paper's figures in order, then the score and claimed figures that it lacks."""
        names = [name for row in self.rows for name in row.expect]
        about = self.plan.about
        if about is not None:
            names += [about.score, *(claim.figure for claim in about.claims)]
        return list(dict.fromkeys(names))

    def of_paper(self, *words: str) -> list[str]:
        """What is said of the paper that has this comparison; nothing for pvtctl's own studies, which have none."""
        return list(words) if self.recipe.paper is not None else []

    @property
    def score(self) -> str:
        """Name of the main figure."""
        if self.plan.about is not None:
            return self.plan.about.score
        return next((name for name in self.figures if name not in _COSTS), "")

    def label(self, figure: str) -> str:
        """Label of a figure, with its unit."""
        return _LABELS.get(figure) or label_of(figure, self.recipe)

    @property
    def recipe(self) -> Recipe:
        """Of the first row that has one."""
        return next(row.recipe for row in self.rows if row.recipe is not None)

    @property
    def attempts(self) -> list[Attempt]:
        """All runs of rows."""
        return [attempt for row in self.rows for attempt in row.attempts]


def digits_of(figure: str) -> int:
    """Number of decimals of a measured figure."""
    if any(part in figure for part in _FRACTIONS):
        return 4
    return 1 if figure in _COSTS else 2


def measured_cell(row: RowResult, cost: ModelCost | None, figure: str, score: str) -> str:
    """The measured value, `38.20 ± 0.31`; for a missing main score, the state of the row."""
    if figure in _COSTS:
        value = cost.value(figure) if cost is not None else None
        return "-" if value is None else f"{value:.{digits_of(figure)}f}"
    spread = row.spread(figure)
    if spread is None:
        return row.state.partition(";")[0] or "-" if figure == score and row.attempts else "-"
    text = f"{spread.mean:.{digits_of(figure)}f}"
    return text if spread.deviation is None else f"{text} ± {spread.deviation:.{digits_of(figure)}f}"


def paper_table(all_of: Measured, title: str) -> ReportTable:
    """The paper's table, with a measured column next to each published one; the measured ones alone if there is no paper."""
    here = f"here, {all_of.plan.profile}"
    columns, groups = ["row"], [("", 1)]
    for figure in all_of.figures:
        own = [*all_of.of_paper("paper"), "here, full size" if figure in _COSTS else here]
        groups.append((all_of.label(figure), len(own)))
        columns += own
    rows = []
    for row in all_of.rows:
        cells = [row.title]
        for figure in all_of.figures:
            printed = row.printed(figure)
            stated = row.expect.get(figure)
            code = " (code)" if stated is not None and stated.paper is None else ""
            measured = measured_cell(row, all_of.costs.get(row.row), figure, all_of.score)
            cells += [*all_of.of_paper("-" if printed is None else f"{printed:g}{code}"), measured]
        done = len(row.finished)
        seeds = plural(done, "seed") if done else ""
        rows.append([*cells, "; ".join(filter(None, (seeds, row.state)))])
    return ReportTable(title, [*columns, "runs"], rows, groups=[*groups, ("", 1)], notes=_notes(all_of))


def _notes(all_of: Measured) -> list[str]:
    notes = [
        f"here, {all_of.plan.profile}: scores of the runs of profile {all_of.plan.profile}, mean ± sample standard deviation "
        "over seeds.",
        "here, full size: counted, or timed on this machine, for the model at full size.",
    ]
    for row in all_of.rows:
        told = [f"{all_of.label(name)}: {figure.note}" for name, figure in row.expect.items() if figure.note]
        notes += [f"{row.title}: {'; '.join(told)}."] if told else []
        notes += [f"{row.title} is printed only: {row.note}"] if row.note else []
        notes += [
            f"{attempt.run.name} {attempt.state} (log: {attempt.log})"
            for attempt in row.attempts
            if attempt.status == "failed"
        ]
    return notes


def cost_table(all_of: Measured) -> ReportTable:
    """Costs of the models at full size, and of those that were trained."""
    columns = ["row", "size", "parameters, M", "GMACs", "latency p50, ms", "p90, ms", "memory of inference, GiB"]
    columns += ["memory of training, GiB", "backbone", "parameters, M", "GMACs", "at size"]
    rows, notes = [], []
    for row in all_of.rows:
        cost = all_of.costs.get(row.row)
        if cost is None:
            continue
        time = cost.timing
        times = [_number(time.p50_ms, 0), _number(time.p90_ms, 0), _number(time.memory_gib, 1)] if time else ["-"] * 3
        cells = [row.title, _by(cost.size), _number(cost.params_m, 1), _number(cost.gmacs, 1), *times]
        cells += [_number(cost.train_memory_gib, 1), cost.trained or "-", _number(cost.trained_params_m, 2)]
        cells += [_number(cost.trained_gmacs, 2), _by(cost.trained_size) if cost.trained_size else "-"]
        rows.append(cells)
        notes += [f"{row.title}: {cost.untimed}."] if cost.untimed else []
    batches = dict.fromkeys((cost.train_images, cost.train_size) for cost in all_of.costs.values())
    shown = ", ".join(f"{images} of {_by(size)}" for images, size in batches)
    busy = [cost.timing.others for cost in all_of.costs.values() if cost.timing and cost.timing.others is not None]
    if busy and max(busy) > _BUSY:
        notes.append(f"While it was timed, other processes took up to {100 * max(busy):.0f} % of this machine's CPU.")
    notes.append(
        f"Memory of training is a lower bound, worked out from shapes: activations in float32 with fused attention (images a "
        f"GPU: {shown}). Latency is one image from photo to result, or one forward pass of a classifier."
    )
    groups = [("", 1), ("full size", 7), ("trained here", 4)]
    return ReportTable("What the models cost", columns, rows, groups=groups, notes=list(dict.fromkeys(notes)))


def verdict_table(all_of: Measured) -> ReportTable:
    """The claims and their verdicts."""
    columns = ["claim", "verdict", "margin here", "95 % interval", *all_of.of_paper("margin in the paper"), "why"]
    rows = []
    for verdict in all_of.verdicts:
        digits = digits_of(verdict.figure)
        margin = "-" if verdict.margin is None else f"{verdict.margin:+.{digits}f}"
        if verdict.error is not None:
            margin += f" ± {verdict.error:.{digits}f}"
        interval = "-"
        if verdict.interval is not None:
            interval = " to ".join(f"{edge:+.{digits}f}" for edge in verdict.interval)
        printed = "-" if verdict.printed is None else f"{verdict.printed:+g}"
        rows.append([verdict.text, verdict.outcome, margin, interval, *all_of.of_paper(printed), verdict.reason])
    notes = ["Margins are how far the row that the claim puts ahead is ahead here, ± their standard error over seeds."]
    if all_of.plan.seeds > 1 and any(run.needs for run in all_of.plan.runs):
        notes.append(
            "All seeds of a row start from one pretraining: its variance is not in the spread, and its figures "
            "(top-1) count once."
        )
    return ReportTable("What is claimed, and what came of it here", columns, rows, notes=notes)


def run_table(all_of: Measured) -> ReportTable:
    """All runs, pretrainings first."""
    columns = ["run", "state", "epochs", "images seen", "minutes", "precision", "started from", "parameters, M"]
    rows = []
    for attempt in [*all_of.pretrainings, *all_of.attempts]:
        cost = all_of.costs.get(attempt.run.row or "")
        rows.append(
            [
                attempt.run.name,
                attempt.state,
                str(attempt.epochs) if attempt.read else "-",
                str(attempt.images) if attempt.read else "-",
                "-" if attempt.seconds is None else f"{attempt.seconds / 60:.1f}",
                attempt.precision,
                attempt.weights,
                _number(cost.trained_params_m, 2) if cost else "-",
            ]
        )
    return ReportTable("The runs", columns, rows)


def markdown(table: ReportTable) -> str:
    """A table as Markdown; group headings are prepended to the headings of their columns."""
    columns = list(table.columns)
    if table.groups:
        above = [label for label, width in table.groups for _ in range(width)]
        columns = [f"{group}: {name}" if group else name for group, name in zip(above, columns, strict=True)]
    notes = "".join(f"- {markdown_line(note)}\n" for note in table.notes)
    return f"## {markdown_line(table.title)}\n\n{markdown_table(columns, table.rows)}\n{notes}"


def long_csv(all_of: Measured) -> str:
    """CSV with one line per row and figure."""
    lines: list[list[Any]] = [["row", "title", "figure", "unit", "paper", "code", "mean", "sd", "n", "where", "state"]]
    for row in all_of.rows:
        cost = all_of.costs.get(row.row)
        figures = [*all_of.figures, *(name for attempt in row.finished for name in attempt.figures)]
        figures += ["params_m", "gmacs", "train_memory_gib"]
        figures += ["latency_ms", "inference_memory_gib"] if cost and cost.timing else []
        for figure in dict.fromkeys(figures):
            expect = row.expect.get(figure)
            printed = [expect.paper, expect.code] if expect else [None, None]
            if figure in _COSTS:
                value = cost.value(figure) if cost else None
                found = [value, None, None if value is None else 1, "full size"]
            else:
                spread = row.spread(figure)
                numbers = [spread.mean, spread.deviation, spread.n] if spread else [None, None, len(row.finished)]
                found = [*numbers, all_of.plan.profile]
            lines.append([row.row, row.title, figure, all_of.label(figure), *printed, *found, row.state])
        trained = [("trained_params_m", cost.trained_params_m), ("trained_gmacs", cost.trained_gmacs)] if cost else []
        for figure, value in trained:
            label = "parameters, M" if "params" in figure else "multiply-adds, G"
            found = [value, None, None, all_of.plan.profile]
            lines.append([row.row, row.title, figure, label, None, None, *found, row.state])
    return csv_text(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
