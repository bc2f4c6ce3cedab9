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


@dataclass
class _Overlaps:
    """Of each of N detections the highest IoU with objects of its class and with others, and these objects; no crowds."""

    own_iou: NDArray[np.float64]
    other_iou: NDArray[np.float64]
    own: NDArray[np.int64]
    other: NDArray[np.int64]
    any_class: NDArray[np.int64]
    on_crowd: NDArray[np.bool_]
    owner: NDArray[np.int64]
    """The matched object, -1 for none."""


@np.errstate(over="ignore", invalid="ignore")  # boxes may be as large as numbers go
def match(found: Columns, true: TrueObjects) -> Matching:
    """Match the detections of all images; both are sorted by image."""
    size = len(found)
    own, other, any_class, owner = (np.full(size, -1) for _ in range(4))
    seen = _Overlaps(np.zeros(size), np.zeros(size), own, other, any_class, np.zeros(size, np.bool_), owner)
    images, starts = np.unique(found.image_ids, return_index=True)
    stops = np.append(starts, size)[1:]
    first = np.searchsorted(true.image_ids, images)
    last = np.searchsorted(true.image_ids, images, side="right")
    for start, stop, low, high in zip(starts.tolist(), stops.tolist(), first.tolist(), last.tolist(), strict=True):
        if low < high:
            _match_image(found, true, slice(start, stop), slice(low, high), seen)
    right = seen.owner >= 0
    local = (seen.own_iou >= BACKGROUND) & (seen.own_iou < FOREGROUND)
    wrong_class = seen.other_iou >= FOREGROUND
    kind = np.select(
        [right, seen.on_crowd, local, wrong_class, seen.own_iou >= FOREGROUND, seen.other_iou >= BACKGROUND],
        [RIGHT, IGNORED, LOCALISATION, CLASSIFICATION, DUPLICATE, BOTH],
        NOTHING_THERE,
    )
    points = np.select([right, kind == LOCALISATION, kind == CLASSIFICATION], [seen.owner, seen.own, seen.other], -1)
    overlapped = np.where(np.maximum(seen.own_iou, seen.other_iou) >= FOREGROUND, seen.any_class, -1)
    return Matching(kind.astype(np.int8), points, overlapped)


def _match_image(found: Columns, true: TrueObjects, here: slice, objects: slice, seen: _Overlaps) -> None:
    crowd, labels = true.crowd[objects], true.labels[objects]
    iou = box_iou(found.boxes[here], true.boxes[objects], crowd)
    same = found.labels[here, None] == labels
    plain = np.where(crowd, 0.0, iou)
    own, other = np.where(same, plain, 0.0), np.where(same, 0.0, plain)
    own_iou = seen.own_iou[here] = own.max(axis=1)
    seen.other_iou[here] = other.max(axis=1)
    for places, overlaps in ((seen.own, own), (seen.other, other), (seen.any_class, plain)):
        places[here] = overlaps.argmax(axis=1) + objects.start
    if crowd.any():
        seen.on_crowd[here] = (same & crowd & (iou >= FOREGROUND)).any(axis=1)
    rows = np.flatnonzero(own_iou >= FOREGROUND)
    rows = rows[np.argsort(-found.scores[here][rows], kind="stable")]
    free = np.ones(len(labels), bool)
    for at in rows.tolist():
        overlaps = np.where(free, own[at], 0.0)
        # of equal overlaps the last, as in COCO's evaluation
        best = len(overlaps) - 1 - int(overlaps[::-1].argmax())
        if overlaps[best] >= FOREGROUND:
            seen.owner[here.start + at] = best + objects.start
            free[best] = False


def average_precision(
    labels: NDArray[Any], right: NDArray[np.bool_], objects: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(K,) precision averaged over COCO's 101 recalls, for classes with `objects` (K,) objects; NaN without any.

    The detections are given best first.
    """
    result = np.full(len(objects), np.nan)
    order = np.argsort(labels, kind="stable")
    labels, right = labels[order], right[order]
    edges = np.searchsorted(labels, np.arange(len(objects) + 1))
    for label in np.flatnonzero(objects).tolist():
        hits = np.cumsum(right[edges[label] : edges[label + 1]])
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(hits / objects[label], RECALLS, side="left")
        result[label] = np.append(precision, 0.0)[np.minimum(at, len(hits))].mean()
    return result
