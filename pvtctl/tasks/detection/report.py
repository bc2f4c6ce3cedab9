"""Report of a detection metric: pictures, tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pvtctl.data.images import BadImage
from pvtctl.io.tables import write_csv
from pvtctl.models.structures import Detections, Objects
from pvtctl.tasks.base import ComparedImage, Predictor
from pvtctl.tasks.classes import match_predicted_classes
from pvtctl.tasks.detection.annotations.plausible import SHAPE_KINDS, odd_shapes
from pvtctl.tasks.detection.data import DetectionDataset
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.pictures import draw_detections, draw_side_by_side, rights
from pvtctl.tasks.detection.scoring.results import write_results
from pvtctl.tasks.detection.scoring.scores import why_missing
from pvtctl.views.draw import draw_each
from pvtctl.views.report import ReportTable, in_percent, worst_first
from pvtctl.views.sheet import captioned, draw_sheet, write_picture

MOST_CLASSES = 10
"""Rows of the table of classes in the terminal; the report has all."""
NUM_WORST = 8
SHOWN_FROM = 0.3
"""Minimum score of drawn sample detections."""


class DetectionReport:
    """`pvtctl.tasks.base.EvaluationReport` of detections on a data set's validation images."""

    score = "AP"

    def __init__(self, dataset: DetectionDataset, metric: DetectionMetric, samples: Mapping[int, Detections]) -> None:
        self.dataset = dataset
        self.metric = metric
        self.samples = samples
        self.analysis = metric.analysis()

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Worst images next to ground truth, curves, confusion, errors and classes. Missing images are left out."""
        # matplotlib takes a second to import
        from pvtctl.tasks.detection.charts import (
            draw_class_ap,
            draw_detection_confusion,
            draw_error_kinds,
            draw_precision_recall,
        )

        def samples() -> Path | None:
            path = folder / "detections.png"
            return draw_detection_samples(path, self.dataset, self.samples) if self.samples else None

        def worst() -> Path | None:
            tiles = self._worst()
            return draw_sheet(folder / "worst.png", tiles, columns=1, width=1200) if tiles else None

        return draw_each(
            {
                "Sample detections": samples,
                "The worst images: truth on the left, detections on the right": worst,
                "Precision and recall": lambda: draw_precision_recall(folder / "precision_recall.png", self.analysis),
                "Confusion with background": lambda: draw_detection_confusion(folder / "confusion.png", self.analysis),
                "Kinds of errors": lambda: draw_error_kinds(folder / "errors.png", self.analysis),
                "Classes": lambda: draw_class_ap(folder / "classes.png", self.analysis),
            }
        )

    def _worst(self) -> dict[str, Any]:
        """Title -> picture of the images with the most errors, ground truth and detections side by side."""
        threshold = self.analysis.threshold if math.isfinite(self.analysis.threshold) else 0.0
        where = {int(image_id): at for at, image_id in enumerate(self.dataset.source.image_ids[self.dataset.kept])}
        tiles = {}
        for image in self.analysis.worst[:NUM_WORST]:
            at = where[image.image_id]
            try:
                pixels = self.dataset.original(at)
            except (BadImage, OSError):
                continue
            truth, found = self.dataset.truth(at), self.metric.detections_of(image.image_id)
            title = f"{image.file_name}: {image.right} of {image.objects} found, {image.wrong} wrong"
            tiles[title] = draw_side_by_side(pixels, truth, found, self.dataset.class_names, threshold=threshold)
        return tiles

    def tables(self) -> list[ReportTable]:
        """Classes and kinds of errors."""
        classes = [[str(cell) for cell in row] for row in self._class_rows()]
        errors = [[each.name, str(each.count), in_percent(each.ap50_gain)] for each in self.analysis.errors]
        return [
            ReportTable("Classes, worst first", self._columns(), classes),
            ReportTable("Errors at IoU 0.5", ["kind", "count", "AP50 gained without it, %"], errors),
        ]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst classes: title, columns, rows."""
        title, rows = worst_first("Classes", self._class_rows(), MOST_CLASSES)
        return title, self._columns(), rows

    def _columns(self) -> list[str]:
        masks = ["mask AP, %"] if self.metric.masks else []
        return ["class", "objects", "box AP, %", "box AP50, %", *masks, "best score from", "precision, %", "recall, %"]

    def _class_rows(self) -> list[list[Any]]:
        """One row per class with objects, by AP; precision and recall at its best threshold."""
        scored = sorted((each for each in self.analysis.classes if each.objects), key=lambda each: (each.ap, each.name))
        return [
            [
                each.name,
                each.objects,
                in_percent(each.ap),
                in_percent(each.ap50),
                *([in_percent(each.mask_ap)] if self.metric.masks else []),
                f"{each.threshold:.2f}" if math.isfinite(each.threshold) else "-",
                in_percent(each.precision),
                in_percent(each.recall),
            ]
            for each in scored
        ]

    def document(self) -> dict[str, Any]:
        """For `--json`: the whole analysis, and what the limit of detections leaves out."""
        return {"analysis": self.analysis.as_dict(), "detection_limit": self.metric.crowding()}

    def notes(self) -> list[str]:
        """Another limit than COCO's, what a limit leaves out, boxes that look like corners, and why numbers are missing."""
        missing = [name for name, value in self.metric.compute().items() if not math.isfinite(value)]
        empty = list(dict.fromkeys(why_missing(name, self.metric.truth) for name in missing))
        return [*self._limit_notes(), *self._shape_notes(), *empty]

    def _limit_notes(self) -> list[str]:
        limit, told = self.metric.crowding(), []
        most = limit["max_detections"]
        if not limit["is_cocos"]:
            told.append(
                f"at most {most} detections of an image count, COCO's evaluation counts 100: not COCO's numbers"
            )
        if images := limit["images_with_more_objects"]:
            of_class = " of one class" if self.metric.by_class else ""
            which = "image has" if images == 1 else "images have"
            told.append(
                f"{images} {which} more than {most} objects{of_class} (up to {limit['most_objects']}), and at most {most} "
                "detections of each count: not even a perfect detector would reach 100 %; --max-detections scores more"
            )
        return told

    def _shape_notes(self) -> list[str]:
        """What the detections' boxes look like, if not like COCO's."""
        found, truth = self.metric.found, self.metric.truth
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        limits = np.asarray([sizes[image] for image in found.image_ids.tolist()], np.float64).reshape(-1, 2)
        return [f"the detections have {SHAPE_KINDS[kind]}" for kind, _ in odd_shapes(found.boxes, limits)]

    def files(self, folder: Path) -> dict[str, Path]:
        """The detections in COCO's results format, and the classes as a table."""
        metric = self.metric
        results = write_results(folder / "detections.json", metric.found, metric.category_ids, metric.truth)
        return {"detections": results, "classes": self.write_classes(folder)}

    def write_classes(self, folder: Path) -> Path:
        """Write `classes.csv`, the table of classes."""
        return write_csv(folder / "classes.csv", [self._columns(), *self._class_rows()])


def draw_detection_samples(path: Path, dataset: DetectionDataset, samples: Mapping[int, Detections]) -> Path:
    """Write a sheet of a few validation images with their detections."""
    tiles, names = {}, dataset.ids
    for at, found in sorted(samples.items()):
        shown = found.chosen(found.scores >= SHOWN_FROM)
        title = f"{names[at]}: {len(shown)} found, {len(dataset.truth(at))} true"
        tiles[title] = draw_detections(dataset.original(at), shown, dataset.class_names)
    path.parent.mkdir(parents=True, exist_ok=True)
    return draw_sheet(path, tiles, columns=3, width=480)


class DetectionComparer:
    """Detections next to the ground truth of a split; images are ranked by the F1 score at IoU 0.5."""

    def __init__(self, predictor: Predictor, split: DetectionDataset, *, threshold: float) -> None:
        """`threshold` is the minimum score of detections. Raises UsageError for data with classes that the model
        does not have."""
        self.predictor, self.split, self.threshold, self.names = predictor, split, threshold, split.ids
        self.to_head = match_predicted_classes(split.class_names, predictor.class_names)

    def __call__(self, index: int) -> ComparedImage:
        image = self.split.original(index)
        found: Detections = self.predictor(torch.from_numpy(image).permute(2, 0, 1))
        true = self.split.source.objects(int(self.split.kept[index]), with_masks=self.split.with_masks)
        truth = Objects(true.boxes, self.to_head[true.labels], true.masks)
        right, wrong = rights(truth, found, self.threshold)
        # the F1 score: right ones among all objects and detections
        total = right + wrong + len(truth)
        name, verdict = self.names[index], f"{right} of {len(truth)} found, {wrong} wrong"

        def draw(path: Path) -> None:
            drawn = draw_side_by_side(image, truth, found, self.predictor.class_names, threshold=self.threshold)
            write_picture(path, captioned(drawn, f"{name}: {verdict}"))

        return ComparedImage(name, 2 * right / total if total else 1.0, verdict, draw)
