"""Report of a segmentation metric: pictures, tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.io.tables import write_csv
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import Predictor
from pvtctl.tasks.classes import match_predicted_classes
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.dense.report import DenseComparer, comparison_tiles, draw_rows
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.segmentation.predict import LabelMap
from pvtctl.views.draw import draw_each
from pvtctl.views.report import ReportTable, in_percent

# Matplotlib takes a second to import: the views are imported where something is drawn.

MOST_CLASSES = 10
"""Rows of the table of classes in the terminal; the report has all."""
_COLUMNS = ["class", "pixels, %", "IoU, %", "accuracy, %", "precision, %", "boundary F, %"]
_NAMED = 8
"""Classes that a note names."""


class SegmentationReport:
    """`pvtctl.tasks.base.EvaluationReport` of label maps on a data set's validation images."""

    score = "mIoU"

    def __init__(
        self, dataset: DenseDataset, metric: SegmentationMetric, samples: Mapping[int, NDArray[np.uint8]]
    ) -> None:
        self.dataset = dataset
        self.metric = metric
        self.samples = samples

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Samples and worst images next to ground truth, confusion and classes. Missing images are left out."""
        from pvtctl.tasks.segmentation.charts import draw_class_iou, draw_pixel_confusion

        metric = self.metric

        def samples() -> Path | None:
            path = folder / "segmentation.png"
            return draw_segmentation_samples(path, self.dataset, self.samples) if self.samples else None

        def worst() -> Path | None:
            places = {name: at for at, name in enumerate(self.dataset.ids)}
            maps = {places[image.id]: image.labels() for image in metric.worst() if image.id in places}
            return draw_segmentation_samples(folder / "worst.png", self.dataset, maps) if metric.worst() else None

        return draw_each(
            {
                "Sample predictions": samples,
                "The worst images, by the mean IoU of their own classes": worst,
                "Confusion": lambda: draw_pixel_confusion(
                    folder / "confusion.png", metric.confusion, metric.class_names
                ),
                "Classes": lambda: draw_class_iou(folder / "classes.png", metric.classes()),
            }
        )

    def tables(self) -> list[ReportTable]:
        """The classes, all of them."""
        rows = [[str(cell) for cell in row] for row in self._class_rows()]
        return [ReportTable("Classes, worst first", _COLUMNS, rows)]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst classes: title, columns, rows."""
        rows = self._class_rows()
        few = len(rows) <= MOST_CLASSES
        title = "Classes, worst first" if few else f"The {MOST_CLASSES} worst of {len(rows)} classes"
        return title, _COLUMNS, rows[:MOST_CLASSES]

    def _class_rows(self) -> list[list[Any]]:
        """One row per class, by IoU; those that do not occur come last."""
        classes = self.metric.classes()
        pixels = max(1, sum(each.pixels for each in classes))
        return [
            [
                each.name,
                f"{100 * each.pixels / pixels:.2f}",
                *map(in_percent, (each.iou, each.accuracy, each.precision, each.boundary_f)),
            ]
            for each in sorted(classes, key=lambda each: (math.isnan(each.iou), each.iou, each.name))
        ]

    def document(self) -> dict[str, Any]:
        """For `--json`: classes, the confusion matrix and the worst images."""
        worst = [{"id": each.id, "iou": each.iou, "pixel_acc": each.pixel_acc} for each in self.metric.worst()]
        return {
            "classes": [asdict(each) for each in self.metric.classes()],
            "confusion": self.metric.confusion.tolist(),
            "worst": worst,
        }

    def notes(self) -> list[str]:
        """Why numbers are missing, and which classes and pixels are not counted."""
        metric = self.metric
        missing = [name for name, value in metric.compute().items() if not math.isfinite(value)]
        notes = list(dict.fromkeys(metric.why_missing(name) for name in missing[:1]))
        if not metric.confusion.any():
            return notes
        classes = metric.classes()
        unseen = [each.name for each in classes if not each.pixels and not each.predicted]
        invented = [each.name for each in classes if not each.pixels and each.predicted]
        if unseen:
            notes.append(f"In neither ground truth nor prediction, left out of the mean IoU: {_listed(unseen)}.")
        if invented:
            notes.append(f"Without a true pixel but predicted, counted with an IoU of 0: {_listed(invented)}.")
        if metric.unlabelled:
            notes.append(f"Images without a labelled pixel, which are not counted: {metric.unlabelled}.")
        if foreign := int(metric.confusion[:, -1].sum()):
            share = 100 * foreign / int(metric.confusion.sum())
            notes.append(f"Pixels predicted as a class that the data does not have, counted as wrong: {share:.1f} %.")
        return notes

    def files(self, folder: Path) -> dict[str, Path]:
        """The classes and the confusion matrix (pixels by true class and prediction) as tables."""
        names = self.metric.class_names
        header = ["class", *names, "a class that the data does not have"]
        counts = [[name, *row] for name, row in zip(names, self.metric.confusion.tolist(), strict=True)]
        return {
            "classes": write_csv(folder / "classes.csv", [_COLUMNS, *self._class_rows()]),
            "confusion": write_csv(folder / "confusion.csv", [header, *counts]),
        }


def draw_segmentation_samples(path: Path, dataset: DenseDataset, samples: Mapping[int, NDArray[np.uint8]]) -> Path:
    """Write a sheet of validation images with ground truth, prediction and errors; missing images are left out.

    `samples`: predicted label maps in pixels of the files by position in the split, drawn in this order.
    """

    def draw(pixels: Tensor, target: Tensor, found: NDArray[Any], name: str) -> tuple[str, RgbImage]:
        _, verdict = _judged(dataset, found, target, name)
        return f"{name}: {verdict}", _comparison(dataset, pixels, target, found)

    return draw_rows(path, comparison_tiles(dataset, samples, draw))


def _judged(dataset: DenseDataset, found: NDArray[Any], target: Tensor, name: str) -> tuple[float, str]:
    """Mean IoU of an image's own classes, NaN if nothing is labelled, and the same in words."""
    own = SegmentationMetric(dataset.class_names, worst=1)
    own.add(torch.from_numpy(found), target, name)
    if not own.worst():
        return math.nan, "nothing labelled"
    iou = own.worst()[0].iou
    return iou, f"mean IoU of its classes {100 * iou:.1f} %"


def _comparison(dataset: DenseDataset, pixels: Tensor, target: Tensor, found: NDArray[Any]) -> RgbImage:
    from pvtctl.tasks.segmentation.pictures import draw_label_comparison
    from pvtctl.views.class_colours import class_colours

    colours = class_colours(len(dataset.class_names), dataset.source.palette)
    return draw_label_comparison(to_rgb(pixels), target.numpy(), found, dataset.class_names, colours)


def _listed(names: Sequence[str]) -> str:
    """The names, the first few of many."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class SegmentationComparer(DenseComparer):
    """Label maps next to the ground truth of a split; images are ranked by the mean IoU of their own classes.

    Raises UsageError for data with classes that the model does not have.
    """

    def __init__(self, predictor: Predictor, recipe: Recipe, split: DenseDataset, *, threshold: float) -> None:
        super().__init__(predictor, recipe, split, threshold=threshold)
        to_head = match_predicted_classes(split.class_names, predictor.class_names)
        self.to_data = np.full(256, IGNORE_LABEL, np.uint8)  # classes that the data does not have count as wrong
        for label, of_head in enumerate(to_head.tolist()):
            self.to_data[of_head] = label

    def compare(
        self, pixels: Tensor, target: Tensor, prediction: LabelMap, name: str
    ) -> tuple[float, str, Callable[[], RgbImage]]:
        found = self.to_data[prediction.labels]
        return *_judged(self.split, found, target, name), partial(_comparison, self.split, pixels, target, found)
