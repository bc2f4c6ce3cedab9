"""Matches detections to objects and classifies the errors: the basis of all error analyses.

Detections are matched as in COCO at IoU 0.5: by class, best score first, each to the free object that it overlaps most.
Errors are TIDE's (Bolya et al. 2020, section 2.2), with its thresholds of 0.5 and 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.tasks.detection.scoring.columns import Columns
from pvtctl.tasks.detection.scoring.compared import RECALLS

FOREGROUND, BACKGROUND = 0.5, 0.1
RIGHT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, NOTHING_THERE, IGNORED = range(7)
"""Kinds of detections; IGNORED overlaps a crowd."""

Boxes = NDArray[np.float64]


@dataclass
class TrueObjects:
    """All objects of the data as columns, sorted by image."""

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: Boxes
    """(N, 4) x, y, width, height."""
    crowd: NDArray[np.bool_]

    def counts(self, num_classes: int) -> NDArray[np.int64]:
        """Objects of each class, without crowds."""
        return np.bincount(self.labels[~self.crowd], minlength=num_classes)


@dataclass
class Matching:
    """Kind of every detection (one of the numbers above), and its object."""

    kind: NDArray[np.int8]
    object: NDArray[np.int64]
    """Row of the true objects, -1 for none: the matched one if RIGHT, else the one it should have matched."""
    overlapped: NDArray[np.int64]
    """Row of the object of any class with the highest IoU of at least 0.5; -1 for none."""


def true_objects(truth: Mapping[str, Any], category_ids: Sequence[int]) -> TrueObjects:
    """Objects from the annotations of a COCO dictionary."""
    labels = {key: label for label, key in enumerate(category_ids)}
    rows = sorted(truth["annotations"], key=lambda each: int(each["image_id"]))
    return TrueObjects(
        np.asarray([row["image_id"] for row in rows], np.int64),
        np.asarray([labels[row["category_id"]] for row in rows], np.int64),
        np.asarray([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        np.asarray([bool(row.get("iscrowd")) for row in rows], bool),
    )


def box_iou(found: Boxes, true: Boxes, crowd: NDArray[np.bool_]) -> Boxes:
    """(N, M) intersection over union of boxes x, y, width, height; over the detection's own area for crowds."""
    corner = np.minimum((found[:, :2] + found[:, 2:])[:, None], (true[:, :2] + true[:, 2:])[None])
    sides = (corner - np.maximum(found[:, None, :2], true[None, :, :2])).clip(0)
    shared = sides[..., 0] * sides[..., 1]
    own = (found[:, 2] * found[:, 3])[:, None]
    whole = np.where(crowd[None], own, own + (true[:, 2] * true[:, 3])[None] - shared)
    return np.asarray(np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def match(found: Columns, true: TrueObjects) -> Matching:
    """Match the detections of all images; both are sorted by image."""
    size = len(found)
    matching = Matching(np.full(size, NOTHING_THERE, np.int8), np.full(size, -1), np.full(size, -1))
    images, starts = np.unique(found.image_ids, return_index=True)
    stops = np.append(starts, size)[1:]
    first = np.searchsorted(true.image_ids, images)
    last = np.searchsorted(true.image_ids, images, side="right")
    for start, stop, low, high in zip(starts.tolist(), stops.tolist(), first.tolist(), last.tolist(), strict=True):
        if low < high:
            order = start + np.argsort(-found.scores[start:stop], kind="stable")
            _match_image(found, true, order, slice(low, high), matching)
    return matching


def _match_image(
    found: Columns, true: TrueObjects, order: NDArray[np.int64], objects: slice, matching: Matching
) -> None:
    crowd, labels = true.crowd[objects], true.labels[objects]
    iou = box_iou(found.boxes[order], true.boxes[objects], crowd)
    same = found.labels[order][:, None] == labels[None]
    plain = np.where(crowd[None], 0.0, iou)
    own, other = np.where(same, plain, 0.0), np.where(same, 0.0, plain)
    own_iou, other_iou = own.max(axis=1), other.max(axis=1)
    on_crowd = (np.where(same & crowd[None], iou, 0.0) >= FOREGROUND).any(axis=1)
    owner = np.full(len(order), -1)
    free = np.ones(len(labels), bool)
    for at in np.flatnonzero(own_iou >= FOREGROUND).tolist():
        overlaps = np.where(free, own[at], 0.0)
        # of equal overlaps the last, as in COCO's evaluation
        best = len(overlaps) - 1 - int(overlaps[::-1].argmax())
        if overlaps[best] >= FOREGROUND:
            owner[at], free[best] = best, False
    right = owner >= 0
    local = (own_iou >= BACKGROUND) & (own_iou < FOREGROUND)
    wrong_class = other_iou >= FOREGROUND
    kind = np.select(
        [right, on_crowd, local, wrong_class, own_iou >= FOREGROUND, other_iou >= BACKGROUND],
        [RIGHT, IGNORED, LOCALISATION, CLASSIFICATION, DUPLICATE, BOTH],
        NOTHING_THERE,
    )
    points = np.select(
        [right, kind == LOCALISATION, kind == CLASSIFICATION], [owner, own.argmax(1), other.argmax(1)], -1
    )
    overlapped = np.where(plain.max(axis=1) >= FOREGROUND, plain.argmax(axis=1), -1)
    matching.kind[order] = kind
    matching.object[order] = np.where(points >= 0, points + objects.start, -1)
    matching.overlapped[order] = np.where(overlapped >= 0, overlapped + objects.start, -1)


def average_precision(
    scores: NDArray[np.float64], labels: NDArray[Any], right: NDArray[np.bool_], objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(K,) precision averaged over COCO's 101 recalls, for classes with `objects` (K,) objects; NaN without any."""
    result = np.full(len(objects), np.nan)
    order = np.lexsort((-scores, labels))
    labels, right = np.asarray(labels)[order], right[order]
    edges = np.searchsorted(labels, np.arange(len(objects) + 1))
    for label in np.flatnonzero(objects).tolist():
        hits = np.cumsum(right[edges[label] : edges[label + 1]])
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(hits / objects[label], RECALLS, side="left")
        result[label] = np.append(precision, 0.0)[np.minimum(at, len(hits))].mean()
    return result
