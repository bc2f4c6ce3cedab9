"""The pictures and the report of a classification run or evaluation: joins task, metric and views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from pvtctl.data import Draw, Sample, readable_name
from pvtctl.engine import FitResult, RunFolder
from pvtctl.files import write_text
from pvtctl.metrics.classification import ClassificationMetric
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.classification import ClassificationTask
from pvtctl.tasks.results import Figure, compare_with_paper, data_label, paper_label, printed_top1, result_rows

# Matplotlib takes a second to import: the views are imported where something is drawn.

NUM_PREDICTIONS = 12
NUM_WORST = 18
MOST_CLASSES = 1000
"""Rows of the per-class table in a report."""


@dataclass
class Findings:
    """What an evaluation has to tell, besides the pictures that are drawn from the metric."""

    title: str
    lead: str
    figures: Sequence[Figure]
    differences: Sequence[str]
    """Why the figures may not be compared with the paper's."""
    recipe: Mapping[str, Any]
    environment: Any
    skipped: Mapping[str, str] = field(default_factory=dict)
    """id -> reason of the images that could not be read."""
    paper: str = "the paper"


@dataclass(frozen=True)
class RunSummary:
    """What a finished run shows."""

    title: str
    numbers: dict[str, float]
    figures: list[Figure]
    differences: list[str]
    """Why the accuracy may not be compared with the paper's."""
    paper: str
    skipped: dict[str, str]
    """id -> reason of the images that could not be read."""
    files: dict[str, Path]


def report_run(
    run: RunFolder,
    task: ClassificationTask,
    recipe: Recipe,
    result: FitResult,
    metric: ClassificationMetric,
    *,
    steps_per_epoch: int,
    skipped: Mapping[str, str],
) -> RunSummary:
    """Write pictures and report.html of a finished run, and skipped.json where images could not be read.

    `metric` is that of the best weights; `skipped` what this part of the run could not read.
    """
    numbers = metric.compute()
    figures, differences = compare_with_paper(recipe, numbers, len(task.val.class_names))
    curves = draw_run_curves(run, steps_per_epoch, None if differences else printed_top1(recipe))
    pictures = {"Curves": curves, **draw_evaluation(run.path, task, metric)}
    everything = _remember_skipped(run.path / "skipped.json", skipped)
    run.record(skipped_images=len(everything))
    title = f"{recipe.title or recipe.model.backbone.name} on {data_label(recipe)}"
    findings = Findings(
        title=title,
        lead=f"Recipe {recipe.name}, profile {recipe.profile}: {result.epochs} epochs, {result.steps} steps, "
        f"{duration(result.seconds)}; best weights of epoch {result.best_epoch}",
        figures=figures,
        differences=differences,
        recipe=recipe.model_dump(mode="json"),
        environment=run.info | {"starts": json.loads((run.path / "environment.json").read_text("utf-8"))},
        skipped=everything,
        paper=paper_label(recipe),
    )
    report = write_findings(run.path / "report.html", findings, metric, pictures)
    files = {"report": report, "curves": curves, "weights": run.best_weights}
    return RunSummary(title, numbers, figures, differences, findings.paper, everything, files)


def _remember_skipped(path: Path, skipped: Mapping[str, str]) -> dict[str, str]:
    """Add to what earlier parts of the run could not read."""
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    everything = {**before, **skipped}
    if everything != before:
        write_text(path, json.dumps(everything, indent=2) + "\n")
    return everything


def duration(seconds: float) -> str:
    """`75 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def draw_run_curves(run: RunFolder, steps_per_epoch: int, paper_top1: float | None = None) -> Path:
    """`curves.png` of a run folder, from its metrics.jsonl."""
    from pvtctl.views.curves import draw_curves

    lines = run.metrics()
    return draw_curves(
        run.path / "curves.png",
        training=[line for line in lines if line["event"] == "train"],
        evaluations=[
            {"step": line["step"], **line.get("ema_metrics", line["metrics"])}
            for line in lines
            if line["event"] == "eval"
        ],
        steps_per_epoch=steps_per_epoch,
        paper_top1=paper_top1,
    )


def draw_evaluation(folder: Path, task: ClassificationTask, metric: ClassificationMetric) -> dict[str, Path]:
    """Write the pictures of an evaluation into `folder`; title -> file."""
    from pvtctl.views.classification import draw_calibration, draw_confusion, draw_sheet

    names = [readable_name(score.name) for score in metric.per_class()]
    return {
        "Some predictions": draw_sheet(
            folder / "predictions.png", _predictions(task), "Validation images as the model sees them"
        ),
        "Confusion matrix": draw_confusion(folder / "confusion.png", metric.confusion_matrix(), names),
        "Calibration": draw_calibration(folder / "calibration.png", metric.reliability(), metric.calibration_error()),
        "Worst images": draw_sheet(folder / "worst.png", _worst(task, metric), "The images of the highest loss"),
    }


def _worst(task: ClassificationTask, metric: ClassificationMetric) -> list[Any]:
    from pvtctl.views.classification import LabelledImage

    misses = metric.worst()[:NUM_WORST]
    wanted = {miss.id for miss in misses}
    where = {name: at for at, name in enumerate(task.val.ids) if name in wanted}
    sheet = []
    for miss in misses:
        pixels = task.seen_image(where[miss.id])
        if pixels is not None:
            truth, prediction = (readable_name(task.class_names[at]) for at in (miss.label, miss.prediction))
            sheet.append(LabelledImage(pixels, truth, prediction, miss.confidence, miss.id, miss.loss))
    return sheet


def _predictions(task: ClassificationTask) -> list[Any]:
    """Images spread evenly over the validation split, with what the model says of them."""
    from pvtctl.views.classification import LabelledImage

    total = len(task.val)
    picked = sorted({at * total // NUM_PREDICTIONS for at in range(NUM_PREDICTIONS)})
    device = next(task.model.parameters()).device
    task.model.eval()
    sheet = []
    for index in picked:
        sample = task.val[Draw(0, index)]
        pixels = task.seen_image(index)
        if not isinstance(sample, Sample) or pixels is None:
            continue
        with torch.inference_mode():
            confidence, prediction = task.model(sample.image[None].to(device))[0].float().softmax(0).max(0)
        truth = readable_name(task.class_names[int(task.label_to_head[sample.label])])
        sheet.append(LabelledImage(pixels, truth, readable_name(task.class_names[int(prediction)]), float(confidence)))
    return sheet


def write_findings(path: Path, findings: Findings, metric: ClassificationMetric, pictures: Mapping[str, Path]) -> Path:
    """Write `report.html`."""
    from pvtctl.views.report import Picture, Report, Table, Text, write_report

    report = Report(findings.title, findings.lead)
    if findings.differences:
        reasons = "; ".join(findings.differences)
        report.warnings.append(f"The accuracy is not comparable with that of {findings.paper}: {reasons}.")
    if findings.skipped:
        report.warnings.append(f"{len(findings.skipped)} image(s) could not be read and were left out; see below.")
    report.parts.append(Table("Results", *result_rows(findings.figures)))
    report.parts += [Picture(title, file) for title, file in pictures.items()]
    report.parts.append(per_class_table(metric))
    if findings.skipped:
        report.parts.append(Table("Images left out", ["image", "reason"], list(findings.skipped.items())))
    report.parts.append(Text("Recipe", yaml.safe_dump(dict(findings.recipe), sort_keys=False, allow_unicode=True)))
    report.parts.append(Text("Environment", json.dumps(findings.environment, indent=2)))
    return write_report(path, report)


def per_class_table(metric: ClassificationMetric) -> Any:
    """Accuracy of each class, worst first, with what it is most often taken for."""
    from pvtctl.views.report import Table

    classes = worst_classes_first(metric)[:MOST_CLASSES]
    named = any(row["class"] != row["name"] for row in classes)  # wnids have readable names besides
    rows = [
        [
            *([row["class"]] if named else []),
            row["name"],
            str(row["images"]),
            f"{100 * row['top1']:.1f}",
            f"{100 * row['precision']:.1f}",
            row["taken_for"] or "",
        ]
        for row in classes
    ]
    columns = [*(["wnid"] if named else []), "class", "images", "top-1, %", "precision, %", "most often taken for"]
    return Table("Classes, worst first", columns, rows)


def worst_classes_first(metric: ClassificationMetric) -> list[dict[str, Any]]:
    """`per_class_rows` of the classes that have images."""
    scored = [row for row in per_class_rows(metric) if row["images"]]
    return sorted(scored, key=lambda row: (row["top1"], row["class"]))


def per_class_rows(metric: ClassificationMetric) -> list[dict[str, Any]]:
    """One mapping a class, plain JSON values: class, name, images, top1 (None without images), precision, taken_for."""
    taken: dict[str, tuple[int, str]] = {}
    for (label, prediction), images in sorted(metric.confusion.items()):
        name = metric.class_names[label]
        if label != prediction and images > taken.get(name, (0, ""))[0]:
            taken[name] = (images, readable_name(metric.class_names[prediction]))
    return [
        {
            "class": score.name,
            "name": readable_name(score.name),
            "images": score.images,
            "top1": score.top1 if score.images else None,
            "precision": score.precision,
            "taken_for": taken[score.name][1] if score.name in taken else None,
        }
        for score in metric.per_class()
    ]
