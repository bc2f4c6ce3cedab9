"""The report of a run or an evaluation, common to all tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pvtctl.engine import FitResult, RunFolder
from pvtctl.engine.run_files import read_starts
from pvtctl.io.files import write_text
from pvtctl.io.foreign import read_facts
from pvtctl.io.names import plural
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import (
    ComparedFigure,
    compare_with_paper,
    data_label,
    is_printed_model,
    paper_label,
    printed_score,
    result_rows,
)
from pvtctl.tasks.base import EvaluationReport
from pvtctl.tasks.data_task import DataTask
from pvtctl.views.draw import draw_each
from pvtctl.views.report import Report, ReportPicture, ReportTable, Text, write_report

# Matplotlib takes a second to import: the views are imported where something is drawn.

SAMPLES = "samples"
"""Subdirectory of a run with a sheet of predictions for each evaluated epoch."""


@dataclass(kw_only=True)
class ReportContent:
    """Results of an evaluation, apart from the pictures drawn from the metric."""

    title: str
    lead: str
    figures: list[ComparedFigure]
    differences: list[str] = field(default_factory=list)
    """Why the score is not comparable with the paper's."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    environment: Any
    skipped: Mapping[str, str] = field(default_factory=dict)
    """id -> reason of the images that could not be read."""
    paper: str = "the paper"
    notes: list[str]
    """What a reader of the figures must know."""


@dataclass(kw_only=True)
class RunSummary(ReportContent):
    """Summary of a finished run."""

    score: str
    """Name of the score that differs: `accuracy`, `AP`."""
    numbers: dict[str, float]
    files: dict[str, Path]


def report_content(
    recipe: Recipe,
    numbers: Mapping[str, float],
    task: DataTask,
    report: EvaluationReport,
    *,
    model: str,
    lead: str,
    environment: Any,
    skipped: Mapping[str, str],
) -> ReportContent:
    """The results of a recipe's model next to the paper's; `model` names it in the title."""
    figures, differences = compare_with_paper(recipe, numbers, len(task.val.class_names))
    head = f" + {recipe.model.head.name}" if recipe.model.head else ""
    return ReportContent(
        title=f"{model}{head} on {data_label(recipe)}",
        lead=lead,
        figures=figures,
        differences=differences,
        recipe=recipe.plain_values(),
        environment=environment,
        skipped=skipped,
        paper=paper_label(recipe),
        notes=report.notes(),
    )


def report_run(
    run: RunFolder,
    task: DataTask,
    recipe: Recipe,
    result: FitResult,
    metric: Any,
    *,
    steps_per_epoch: int,
    skipped: Mapping[str, str],
) -> RunSummary:
    """Write pictures and report.html of a finished run, and skipped.json if images could not be read.

    `metric` is that of the best weights; `skipped` are the images that this part of the run could not read.
    """
    numbers, shown = metric.compute(), task.report(metric)
    everything = _remember_skipped(run.path / "skipped.json", skipped)
    run.record(skipped_images=len(everything))
    content = report_content(
        recipe,
        numbers,
        task,
        shown,
        model=(recipe.title if is_printed_model(recipe) else None) or recipe.model.backbone.spec,
        lead=f"Recipe {recipe.name}, profile {recipe.profile}: {plural(result.epochs, 'epoch')}, "
        f"{plural(result.steps, 'step')}, {duration(result.seconds)}; best weights of epoch {result.best_epoch}",
        environment=run.info | {"starts": read_starts(run.path)},
        skipped=everything,
    )
    printed = None if content.differences else printed_score(recipe)
    curves = draw_each({"Curves": lambda: draw_run_curves(run, task, steps_per_epoch, printed)})
    pictures = {**curves, **shown.pictures(run.path), **_samples_of_epochs(run.path)}
    report = write_findings(run.path / "report.html", content, shown, pictures)
    drawn = {title.lower(): path for title, path in curves.items()}
    files = {"report": report, **drawn, "weights": run.best_weights, **shown.files(run.path)}
    return RunSummary(**vars(content), score=shown.score, numbers=numbers, files=files)


def _remember_skipped(path: Path, skipped: Mapping[str, str]) -> dict[str, str]:
    """Merge with the images that earlier parts of the run could not read."""
    before = {name: str(reason) for name, reason in read_facts(path).items()}
    everything = {**before, **skipped}
    if everything != before:
        write_text(path, json.dumps(everything, indent=2) + "\n")
    return everything


def duration(seconds: float) -> str:
    """`75 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def draw_run_curves(run: RunFolder, task: DataTask, steps_per_epoch: int, paper_score: float | None = None) -> Path:
    """Draw `curves.png` of a run directory from its metrics.jsonl. `paper_score`: the published score, a fraction."""
    from pvtctl.views.curves import draw_curves

    lines = run.metrics()
    return draw_curves(
        run.path / "curves.png",
        training=[line for line in lines if line.get("event") == "train"],
        evaluations=[
            {"step": line["step"], **line.get("ema_metrics", line["metrics"])}
            for line in lines
            if line.get("event") == "eval"
        ],
        steps_per_epoch=steps_per_epoch,
        labels=task.spec.curves,
        paper_score=paper_score,
    )


def draw_epoch(run: RunFolder, task: DataTask, steps_per_epoch: int) -> None:
    """Draw the pictures of each evaluation: the curves and, for dense heads, a sheet of sample predictions."""
    epoch = max((line["epoch"] for line in run.metrics() if line.get("event") == "eval"), default=0)
    sheet = run.path / SAMPLES / f"epoch_{epoch:03d}.png"

    def samples() -> None:
        task.draw_samples(sheet)

    draw_each({"curves": lambda: draw_run_curves(run, task, steps_per_epoch), "samples": samples})


def _samples_of_epochs(folder: Path) -> dict[str, Path]:
    """Sheets of sample predictions, at most six, from the first epoch to the last."""
    sheets = sorted((folder / SAMPLES).glob("epoch_*.png"))
    if len(sheets) > 6:
        sheets = [sheets[round(at * (len(sheets) - 1) / 5)] for at in range(6)]
    return {f"Samples after epoch {int(sheet.stem.removeprefix('epoch_'))}": sheet for sheet in sheets}


def write_findings(
    path: Path, findings: ReportContent, evaluated: EvaluationReport, pictures: Mapping[str, Path]
) -> Path:
    """Write `report.html`."""
    report = Report(findings.title, findings.lead)
    if findings.differences:
        reasons = "; ".join(findings.differences)
        report.warnings.append(f"The {evaluated.score} is not comparable with that of {findings.paper}: {reasons}.")
    report.warnings += findings.notes
    if findings.skipped:
        report.warnings.append(f"{len(findings.skipped)} image(s) could not be read and were left out; see below.")
    report.parts.append(ReportTable("Results", *result_rows(findings.figures)))
    report.parts += [ReportPicture(title, file) for title, file in pictures.items()]
    report.parts += evaluated.tables()
    if findings.skipped:
        report.parts.append(ReportTable("Images left out", ["image", "reason"], list(findings.skipped.items())))
    report.parts.append(Text("Recipe", yaml.safe_dump(dict(findings.recipe), sort_keys=False, allow_unicode=True)))
    report.parts.append(Text("Environment", json.dumps(findings.environment, indent=2)))
    return write_report(path, report)
