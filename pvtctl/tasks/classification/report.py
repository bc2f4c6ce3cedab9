"""Report of a classification metric: pictures, tables and the JSON document."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pvtctl.data.base import Sample
from pvtctl.data.class_names import readable_name
from pvtctl.data.images import to_rgb
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.tasks.base import ComparedImage, Predictor
from pvtctl.tasks.classes import match_predicted_classes
from pvtctl.tasks.classification.data import ClassificationDataset
from pvtctl.tasks.classification.metric import ClassificationMetric
from pvtctl.tasks.classification.predict import ClassScores
from pvtctl.tasks.classification.task import ClassificationTask
from pvtctl.views.draw import draw_each
from pvtctl.views.report import ReportTable, in_percent, worst_first

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
        self.names = [readable_name(name) for name in task.class_names]

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Sheets of predictions and worst images, the confusion matrix and the reliability diagram."""
        # matplotlib takes a second to import
        from pvtctl.tasks.classification.pictures import draw_calibration, draw_confusion, draw_image_sheet

        metric = self.metric
        names = [readable_name(score.name) for score in metric.per_class()]
        bins, error = metric.reliability(), metric.calibration_error()
        seen, lost = "Validation images as the model sees them", "The images of the highest loss"
        return draw_each(
            {
                "Some predictions": lambda: draw_image_sheet(folder / "predictions.png", self._predictions(), seen),
                "Confusion matrix": lambda: draw_confusion(folder / "confusion.png", metric.confusion_matrix(), names),
                "Calibration": lambda: draw_calibration(folder / "calibration.png", bins, error),
                "Worst images": lambda: draw_image_sheet(folder / "worst.png", self._worst(), lost),
            }
        )

    def _worst(self) -> list[Any]:
        from pvtctl.tasks.classification.pictures import SheetImage

        where = {name: at for at, name in enumerate(self.task.val.ids)}
        sheet = []
        for miss in self.metric.worst()[:NUM_WORST]:
            pixels = self.task.seen_image(where[miss.id])
            if pixels is not None:
                truth, prediction = self.names[miss.label], self.names[miss.prediction]
                sheet.append(SheetImage(pixels, truth, prediction, miss.confidence, miss.id, miss.loss))
        return sheet

    def _predictions(self) -> list[Any]:
        """Images spread evenly over the validation split, with their predictions."""
        from pvtctl.tasks.classification.pictures import SheetImage

        task, total = self.task, len(self.task.val)
        device = next(task.model.parameters()).device
        task.model.eval()
        sheet = []
        for index in sorted({at * total // NUM_PREDICTIONS for at in range(NUM_PREDICTIONS)}):
            sample = task.val[Draw(0, index)]
            if not isinstance(sample, Sample):
                continue
            with torch.inference_mode():
                confidence, prediction = task.model(sample.image[None].to(device))[0].float().softmax(0).max(0)
            pixels = to_rgb(denormalize(sample.image, task.val.normalization))
            truth, found = self.names[int(task.label_to_head[sample.target])], self.names[int(prediction)]
            sheet.append(SheetImage(pixels, truth, found, float(confidence)))
        return sheet

    def tables(self) -> list[ReportTable]:
        """Accuracy of each class, worst first, with the class it is most often confused with."""
        classes = self._worst_classes()[:MOST_CLASSES]
        rows = []
        for row in classes:
            numbers = [str(row["images"]), in_percent(row["top1"]), in_percent(row["precision"])]
            rows.append([row["class"], row["name"], *numbers, row["taken_for"] or ""])
        columns = ["wnid", "class", "images", "top-1, %", "precision, %", "most often taken for"]
        first = 0 if any(row["class"] != row["name"] for row in classes) else 1  # wnids have readable names besides
        return [ReportTable("Classes, worst first", columns[first:], [row[first:] for row in rows])]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst classes: title, columns, rows."""
        title, classes = worst_first("Classes", self._worst_classes(), WORST_CLASSES)
        rows = [[row["name"], row["images"], in_percent(row["top1"]), row["taken_for"] or "-"] for row in classes]
        return title, ["class", "images", "top-1, %", "most often taken for"], rows

    def document(self) -> dict[str, Any]:
        """For `--json`: per class, calibration, worst images."""
        names = self.task.class_names
        return {
            "per_class": self._per_class(),
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

    def _worst_classes(self) -> list[dict[str, Any]]:
        scored = [row for row in self._per_class() if row["images"]]
        return sorted(scored, key=lambda row: (row["top1"], row["class"]))

    def _per_class(self) -> list[dict[str, Any]]:
        """One mapping per class, JSON values: class, name, images, top1 (None without images), precision, taken_for."""
        metric = self.metric
        taken: dict[str, tuple[int, str]] = {}
        for (label, prediction), images in sorted(metric.confusion.items()):
            name = metric.class_names[label]
            if label != prediction and images > taken.get(name, (0, ""))[0]:
                taken[name] = (images, self.names[prediction])
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
        guesses, image = prediction.guesses(truth), to_rgb(pixels)
        return ComparedImage(
            name, -loss, verdict, lambda path: draw_guesses(path, image, guesses, f"{name}: {verdict}")
        )
