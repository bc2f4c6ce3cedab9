"""Report of a classification metric: pictures, tables and the JSON document."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pvtctl.data.class_names import readable_name
from pvtctl.data.images import to_rgb
from pvtctl.data.samplers import Draw
from pvtctl.tasks.base import ComparedImage, Predictor
from pvtctl.tasks.classes import match_predicted_classes
from pvtctl.tasks.classification.data import ClassificationDataset, ClassificationSample
from pvtctl.tasks.classification.metric import ClassificationMetric
from pvtctl.tasks.classification.predict import ClassScores, guesses_of
from pvtctl.tasks.classification.task import ClassificationTask
from pvtctl.views.report import ReportTable

# Matplotlib takes a second to import: the views are imported where something is drawn.

NUM_PREDICTIONS = 12
NUM_WORST = 18
MOST_CLASSES = 1000
"""Rows of the per-class table in a report."""
WORST_CLASSES = 10
"""Rows of the table of classes in the terminal; the report has all."""


class ClassificationReport:
    """`pvtctl.tasks.base.EvaluationReport` of a classifier's scores."""

    score = "accuracy"

    def __init__(self, task: ClassificationTask, metric: ClassificationMetric) -> None:
        self.task = task
        self.metric = metric

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Sheets of predictions and worst images, the confusion matrix and the reliability diagram."""
        return draw_evaluation(folder, self.task, self.metric)

    def tables(self) -> list[ReportTable]:
        return [per_class_table(self.metric)]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst classes: title, columns, rows."""
        classes = worst_classes_first(self.metric)
        shown = [
            [row["name"], row["images"], f"{100 * row['top1']:.1f}", row["taken_for"] or "-"]
            for row in classes[:WORST_CLASSES]
        ]
        few = len(classes) <= WORST_CLASSES
        title = "Classes, worst first" if few else f"The {WORST_CLASSES} worst of {len(classes)} classes"
        return title, ["class", "images", "top-1, %", "most often taken for"], shown

    def document(self) -> dict[str, Any]:
        """For `--json`: per class, calibration, worst images."""
        names = self.task.class_names
        return {
            "per_class": per_class_rows(self.metric),
            "calibration": [asdict(row) for row in self.metric.reliability()],
            "worst": [
                {**miss._asdict(), "label": names[miss.label], "prediction": names[miss.prediction]}
                for miss in self.metric.worst()
            ],
        }

    def notes(self) -> list[str]:
        return []

    def files(self, folder: Path) -> dict[str, Path]:
        return {}


def draw_evaluation(folder: Path, task: ClassificationTask, metric: ClassificationMetric) -> dict[str, Path]:
    """Write the pictures of an evaluation into `folder`; title -> file."""
    from pvtctl.tasks.classification.pictures import draw_calibration, draw_confusion, draw_image_sheet

    names = [readable_name(score.name) for score in metric.per_class()]
    return {
        "Some predictions": draw_image_sheet(
            folder / "predictions.png", _predictions(task), "Validation images as the model sees them"
        ),
        "Confusion matrix": draw_confusion(folder / "confusion.png", metric.confusion_matrix(), names),
        "Calibration": draw_calibration(folder / "calibration.png", metric.reliability(), metric.calibration_error()),
        "Worst images": draw_image_sheet(folder / "worst.png", _worst(task, metric), "The images of the highest loss"),
    }


def _worst(task: ClassificationTask, metric: ClassificationMetric) -> list[Any]:
    from pvtctl.tasks.classification.pictures import SheetImage

    misses = metric.worst()[:NUM_WORST]
    wanted = {miss.id for miss in misses}
    where = {name: at for at, name in enumerate(task.val.ids) if name in wanted}
    sheet = []
    for miss in misses:
        pixels = task.seen_image(where[miss.id])
        if pixels is not None:
            truth, prediction = (readable_name(task.class_names[at]) for at in (miss.label, miss.prediction))
            sheet.append(SheetImage(pixels, truth, prediction, miss.confidence, miss.id, miss.loss))
    return sheet


def _predictions(task: ClassificationTask) -> list[Any]:
    """Images spread evenly over the validation split, with their predictions."""
    from pvtctl.tasks.classification.pictures import SheetImage

    total = len(task.val)
    picked = sorted({at * total // NUM_PREDICTIONS for at in range(NUM_PREDICTIONS)})
    device = next(task.model.parameters()).device
    task.model.eval()
    sheet = []
    for index in picked:
        sample = task.val[Draw(0, index)]
        pixels = task.seen_image(index)
        if not isinstance(sample, ClassificationSample) or pixels is None:
            continue
        with torch.inference_mode():
            confidence, prediction = task.model(sample.image[None].to(device))[0].float().softmax(0).max(0)
        truth = readable_name(task.class_names[int(task.label_to_head[sample.label])])
        sheet.append(SheetImage(pixels, truth, readable_name(task.class_names[int(prediction)]), float(confidence)))
    return sheet


def per_class_table(metric: ClassificationMetric) -> ReportTable:
    """Accuracy of each class, worst first, with the class it is most often confused with."""
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
    return ReportTable("Classes, worst first", columns, rows)


def worst_classes_first(metric: ClassificationMetric) -> list[dict[str, Any]]:
    """`per_class_rows` of the classes that have images."""
    scored = [row for row in per_class_rows(metric) if row["images"]]
    return sorted(scored, key=lambda row: (row["top1"], row["class"]))


def per_class_rows(metric: ClassificationMetric) -> list[dict[str, Any]]:
    """One mapping per class, JSON values: class, name, images, top1 (None without images), precision, taken_for."""
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


class ClassComparer:
    """Predictions next to the ground truth of a split; images are ranked by their loss."""

    def __init__(self, predictor: Predictor, split: ClassificationDataset) -> None:
        """Raises UsageError for data with classes that the model does not have."""
        self.predictor, self.split, self.names = predictor, split, split.ids
        self.to_head = match_predicted_classes(split.class_names, predictor.class_names)

    def __call__(self, index: int) -> ComparedImage:
        from pvtctl.tasks.classification.pictures import draw_guesses

        pixels, label = self.split.read(index)
        prediction: ClassScores = self.predictor(pixels)
        truth = int(self.to_head[label])
        loss = -math.log(max(float(prediction.probabilities[truth]), 1e-12))
        right = int(prediction.probabilities.argmax()) == truth
        name, verdict = self.names[index], f"{'right' if right else 'wrong'}, loss {loss:.2f}"
        guesses, image = guesses_of(prediction, truth), to_rgb(pixels)
        return ComparedImage(
            name, -loss, verdict, lambda path: draw_guesses(path, image, guesses, f"{name}: {verdict}")
        )
