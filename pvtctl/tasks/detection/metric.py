"""The metric of detection: stores detections as columns of numbers and computes COCO's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pvtctl.errors import UsageError
from pvtctl.models.structures import Detections
from pvtctl.tasks.detection.scoring.analysis import DetectionAnalysis, analyse
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns, columns_of, join
from pvtctl.tasks.detection.scoring.compared import Kind
from pvtctl.tasks.detection.scoring.scores import CocoScores, choose_backend, evaluate_columns

if TYPE_CHECKING:
    from pvtctl.tasks.detection.data import DetectionBatch

_KINDS: dict[str, Kind] = {"box": "bbox", "mask": "segm"}


class DetectionMetric:
    """COCO's metrics for boxes, and for masks if `masks` is on.

    `truth` is a COCO dictionary: its categories are `category_ids`, the ids of the labels 0, 1, ... named `class_names`.
    Detections are in pixels of the original images. All images of `truth` count, also those not in any `update`:
    their objects are missed. An image that occurs twice counts once.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        truth: Mapping[str, Any],
        *,
        masks: bool,
        backend: str = "auto",
        limit: int = COCO_LIMIT,
        by_class: bool = False,
    ) -> None:
        """`limit` detections of an image count; with `by_class` of an image and class, as in COCO, where all are there."""
        if not class_names:
            raise UsageError("the annotations have no categories", "there is nothing to score without classes")
        self.class_names = list(class_names)
        self.category_ids = list(category_ids)
        self.truth = truth
        self.masks = masks
        self.backend = choose_backend(backend)
        self.limit = limit
        self.by_class = by_class
        self.nonfinite = 0
        """Detections left out for a non-finite box or score."""
        self._parts: list[Columns] = []
        self._seen: set[int] = set()
        self._scores: dict[str, CocoScores] = {}

    def update(self, outputs: Sequence[Detections], batch: DetectionBatch) -> None:
        """Keep the detections of a batch, one entry of `outputs` an image; labels are the data's."""
        for found, image_id in zip(outputs, batch.image_ids, strict=True):
            if image_id in self._seen:
                continue
            self._seen.add(image_id)
            part, dropped = columns_of(image_id, found, masks=self.masks)
            self._parts.append(part)
            self.nonfinite += dropped
            # few large parts: the Python objects of many small ones take more memory than their numbers
            while len(self._parts) > 1 and len(self._parts[-2]) <= len(self._parts[-1]):
                self._parts[-2:] = [join(self._parts[-2:], masks=self.masks)]
        self._scores.clear()

    def add(self, found: Columns) -> None:
        """Keep detections in columns, such as those of a results file; all ground-truth images count as seen."""
        self._parts.append(found)
        self._seen.update(image["id"] for image in self.truth["images"])
        self._scores.clear()

    @property
    def found(self) -> Columns:
        """All detections, sorted by image."""
        joined = join(self._parts, masks=self.masks).by_image()
        self._parts = [joined]
        return joined

    def detections_of(self, image_id: int) -> Detections:
        """The stored boxes of one image, best first, in its pixels."""
        found = self.found
        rows = np.arange(*np.searchsorted(found.image_ids, [image_id, image_id + 1]))
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        corners = np.concatenate([found.boxes[rows, :2], found.boxes[rows, :2] + found.boxes[rows, 2:]], 1)
        return Detections(
            torch.from_numpy(corners).float(),
            torch.from_numpy(found.scores[rows]).float(),
            torch.from_numpy(found.labels[rows].astype(np.int64)),
        )

    def state(self) -> dict[str, Any]:
        """Everything kept, picklable; what `merge` takes."""
        return {"found": vars(self.found), "seen": sorted(self._seen), "nonfinite": self.nonfinite}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Replace the state by the union of `states`, including this metric's; an image counts once."""
        parts, seen, dropped = [], set[int](), 0
        for state in states:
            part = Columns(**state["found"])
            again = seen.intersection(state["seen"])
            parts.append(part.take(~np.isin(part.image_ids, list(again))) if again else part)
            seen.update(state["seen"])
            dropped += state["nonfinite"]
        self._parts, self._seen, self.nonfinite = parts, seen, dropped
        self._scores.clear()

    def scores(self, what: str = "box") -> CocoScores:
        """Precision and recall of "box" or "mask", computed once."""
        if what not in self._scores:
            kind, found = _KINDS[what], self.found
            # no detector gives more of a class than of an image: COCO's own limit serves for a lower one
            most = max(self.limit, COCO_LIMIT)
            self._scores[what] = evaluate_columns(self.truth, self.category_ids, found, kind, self.backend, most)
        return self._scores[what]

    def compute(self) -> dict[str, float]:
        """COCO's twelve metrics as `box_ap`, ..., `box_ar_large`, and with `mask_`; fractions, NaN for COCO's -1.

        Also `images` seen, `detections` kept and, where there are any, `nonfinite` ones that were left out.
        """
        numbers: dict[str, float] = {}
        for what in ("box", "mask") if self.masks else ("box",):
            numbers |= {f"{what}_{name}": value for name, value in self.scores(what).numbers().items()}
        numbers |= {"images": float(len(self._seen)), "detections": float(len(self.found))}
        if self.nonfinite:
            numbers["nonfinite"] = float(self.nonfinite)
        return numbers

    def analysis(self, *, threshold: float | None = None) -> DetectionAnalysis:
        """Classes, curves, confusion, kinds of errors and the worst images; for `threshold` see `analyse`."""
        masks = self.scores("mask") if self.masks else None
        names, ids = self.class_names, self.category_ids
        options: dict[str, Any] = {"boxes": self.scores(), "masks": masks, "threshold": threshold}
        return analyse(names, ids, self.truth, self.found, **options, limit=max(self.limit, COCO_LIMIT))

    def crowding(self) -> dict[str, Any]:
        """The limit of detections, and the images with more objects than that (of a class, if `by_class`)."""
        cells = Counter(
            (each["image_id"], each["category_id"] if self.by_class else None)
            for each in self.truth["annotations"]
            if not each.get("iscrowd")
        )
        above = {image for (image, _), count in cells.items() if count > self.limit}
        return {
            "max_detections": self.limit,
            "is_cocos": self.limit == COCO_LIMIT,
            "images_with_more_objects": len(above),
            "most_objects": max(cells.values(), default=0),
        }
