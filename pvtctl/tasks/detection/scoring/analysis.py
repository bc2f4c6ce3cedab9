"""Analysis behind AP: classes, curves, confusion, kinds of errors and their cost, and the worst images.

Errors, confusion and images use boxes at IoU 0.5. Curves and AP are those of COCO's evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns
from pvtctl.tasks.detection.scoring.compared import RECALLS
from pvtctl.tasks.detection.scoring.matching import (
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    LOCALISATION,
    NOTHING_THERE,
    RIGHT,
    Matching,
    TrueObjects,
    average_precision,
    match,
    true_objects,
)
from pvtctl.tasks.detection.scoring.scores import CocoScores

ERRORS = {
    "classification": CLASSIFICATION,
    "localisation": LOCALISATION,
    "both": BOTH,
    "duplicate": DUPLICATE,
    "background": NOTHING_THERE,
}
NUM_WORST = 16


@dataclass(frozen=True)
class ClassResult:
    """One class; fractions, NaN if the data has no object of it."""

    name: str
    objects: int
    detections: int
    ap: float
    ap50: float
    ap75: float
    ar: float
    """Highest recall with 100 detections an image."""
    mask_ap: float
    """NaN also if masks were not scored."""
    threshold: float
    """Score threshold of the best F1 at IoU 0.5; NaN without a right detection."""
    f1: float
    precision: float
    """At `threshold`, as are `f1` and `recall`."""
    recall: float


@dataclass(frozen=True)
class Curve:
    """Precision at recalls 0, 0.01 ... 1 (`RECALLS`)."""

    name: str
    ap: float
    precision: list[float]


@dataclass(frozen=True)
class ErrorShare:
    """A kind of error among all detections."""

    name: str
    count: int
    ap50_gain: float
    """Increase of AP at IoU 0.5 without this error, all others unchanged (TIDE's oracle)."""


@dataclass(frozen=True)
class ImageErrors:
    """Errors of one image at the analysis' score threshold."""

    image_id: int
    file_name: str
    objects: int
    right: int
    wrong: int
    missed: int
    f1: float


@dataclass(frozen=True)
class DetectionAnalysis:
    """The whole analysis; `as_dict` is for JSON."""

    class_names: list[str]
    threshold: float
    """Score threshold of `confusion` and `worst`: that of the best F1 over all classes,
    unless another was given; NaN, with all detections counted, if none is right."""
    classes: list[ClassResult]
    curves: list[Curve]
    """Mean over classes at IoU 0.5, 0.75 and over all ten."""
    class_curves: list[Curve]
    """One curve per class, at IoU 0.5."""
    confusion: NDArray[np.int64]
    """(K + 1, K + 1): row the true class, column the detected one; the last row is background, the last column missed."""
    errors: list[ErrorShare]
    """TIDE's error kinds, with "missed" last: objects without any detection."""
    worst: list[ImageErrors]

    def as_dict(self) -> dict[str, Any]:
        """Numbers, texts, lists and dicts."""
        return asdict(self) | {"confusion": self.confusion.tolist()}


def analyse(
    class_names: Sequence[str],
    category_ids: Sequence[int],
    truth: Mapping[str, Any],
    found: Columns,
    *,
    boxes: CocoScores,
    masks: CocoScores | None,
    threshold: float | None = None,
    limit: int = COCO_LIMIT,
) -> DetectionAnalysis:
    """Analyse detections, sorted by image, with COCO's scores given; keeps the 16 worst images.

    The `limit` best detections of an image and class count. `threshold` is the minimum score for the confusion
    and the images; None: that of the best F1.
    """
    found = found.best(limit)
    true = true_objects(truth, category_ids)
    matching = match(found, true)
    if threshold is None:
        threshold = _best_threshold(found.scores, matching.kind, int((~true.crowd).sum()))[0]
    chosen = found.scores >= (threshold if math.isfinite(threshold) else 0.0)
    return DetectionAnalysis(
        class_names=list(class_names),
        threshold=threshold,
        classes=_classes(class_names, found, matching, true, boxes, masks),
        curves=_curves(boxes),
        class_curves=[
            Curve(name, boxes.ap(iou=0, label=label), np.where(values > -1, values, np.nan).tolist())
            for label, (name, values) in enumerate(zip(class_names, boxes.precision[0, :, :, 0, 2].T, strict=True))
        ],
        confusion=_confusion(found, matching, true, chosen, len(class_names)),
        errors=_errors(found, matching, true, len(class_names)),
        worst=_worst(found, matching, true, chosen, truth),
    )


def _best_threshold(
    scores: NDArray[np.float64], kind: NDArray[np.int8], objects: int
) -> tuple[float, float, float, float]:
    """(score, F1, precision, recall) of the best F1; of equally good ones the highest score."""
    counted = kind != IGNORED
    scores, right = scores[counted], kind[counted] == RIGHT
    if not objects or not right.any():
        return (math.nan, 0.0, 0.0, 0.0) if objects else (math.nan,) * 4
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    last_of_score = np.append(scores[1:] != scores[:-1], True)
    at = int(np.where(last_of_score, f1, -1.0).argmax())
    return float(scores[at]), float(f1[at]), float(hits[at] / (at + 1)), float(hits[at] / objects)


def _classes(
    class_names: Sequence[str],
    found: Columns,
    matching: Matching,
    true: TrueObjects,
    boxes: CocoScores,
    masks: CocoScores | None,
) -> list[ClassResult]:
    rows = []
    for label, (name, objects) in enumerate(zip(class_names, true.counts(len(class_names)).tolist(), strict=True)):
        own = found.labels == label
        threshold, f1, precision, recall = _best_threshold(found.scores[own], matching.kind[own], objects)
        rows.append(
            ClassResult(
                name=name,
                objects=objects,
                detections=int(own.sum()),
                ap=boxes.ap(label=label),
                ap50=boxes.ap(iou=0, label=label),
                ap75=boxes.ap(iou=5, label=label),
                ar=boxes.ar(label=label),
                mask_ap=masks.ap(label=label) if masks else math.nan,
                threshold=threshold,
                f1=f1,
                precision=precision,
                recall=recall,
            )
        )
    return rows


def _curves(boxes: CocoScores) -> list[Curve]:
    precision = boxes.precision[..., 0, 2]
    there = (precision > -1).all(axis=(0, 1))
    curves = []
    for name, ious in (("IoU 0.5", slice(0, 1)), ("IoU 0.75", slice(5, 6)), ("mean of IoU 0.5 to 0.95", slice(None))):
        mean = precision[ious][..., there].mean(axis=(0, 2)) if there.any() else np.full(len(RECALLS), np.nan)
        curves.append(Curve(name, float(mean.mean()), mean.tolist()))
    return curves


def _confusion(
    found: Columns, matching: Matching, true: TrueObjects, chosen: NDArray[np.bool_], size: int
) -> NDArray[np.int64]:
    """Right ones first, then the rest by score, each with the remaining object of highest IoU, of any class."""
    matrix = np.zeros((size + 1, size + 1), np.int64)
    free = ~true.crowd
    right = chosen & (matching.kind == RIGHT)
    np.add.at(matrix, (found.labels[right], found.labels[right]), 1)
    free[matching.object[right]] = False
    rest = np.flatnonzero(chosen & (matching.kind != RIGHT) & (matching.kind != IGNORED))
    for row in rest[np.argsort(-found.scores[rest], kind="stable")].tolist():
        at = matching.overlapped[row]
        taken = at >= 0 and free[at]
        matrix[true.labels[at] if taken else size, found.labels[row]] += 1
        if taken:
            free[at] = False
    matrix[:size, size] = np.bincount(true.labels[free], minlength=size)
    return matrix


def _errors(found: Columns, matching: Matching, true: TrueObjects, size: int) -> list[ErrorShare]:
    by_score = np.argsort(-found.scores, kind="stable")
    kind, objects = matching.kind[by_score], true.counts(size)
    classes, pointed_at = found.labels[by_score], matching.object[by_score]
    counted = kind != IGNORED
    owned = np.zeros(len(true.labels), bool)
    owned[pointed_at[kind == RIGHT]] = True

    def ap50(labels: NDArray[Any], right: NDArray[np.bool_], kept: NDArray[np.bool_], left: NDArray[np.int64]) -> float:
        ap = average_precision(labels[kept], right[kept], left)
        return float(np.nanmean(ap)) if np.isfinite(ap).any() else math.nan

    base = ap50(classes, kind == RIGHT, counted, objects)
    shares = []
    pointed = owned.copy()
    for name, code in ERRORS.items():
        wrong = kind == code
        labels, right, kept = classes.astype(np.int64), kind == RIGHT, counted & ~wrong
        if code in (CLASSIFICATION, LOCALISATION):
            rows = np.flatnonzero(wrong)
            pointed[pointed_at[rows]] = True
            best = rows[np.unique(pointed_at[rows], return_index=True)[1]]
            mended = best[~owned[pointed_at[best]]]
            labels[mended] = true.labels[pointed_at[mended]]
            right[mended] = kept[mended] = True
        shares.append(ErrorShare(name, int(wrong.sum()), ap50(labels, right, kept, objects) - base))
    missed = ~pointed & ~true.crowd
    left = objects - np.bincount(true.labels[missed], minlength=size)
    gain = ap50(classes, kind == RIGHT, counted, left) - base if left.any() else math.nan
    return [*shares, ErrorShare("missed", int(missed.sum()), gain)]


def _worst(
    found: Columns,
    matching: Matching,
    true: TrueObjects,
    chosen: NDArray[np.bool_],
    truth: Mapping[str, Any],
) -> list[ImageErrors]:
    """Images with the most errors (wrong detections and missed objects), of equal ones those of the lower F1."""
    ids = np.sort(np.asarray([image["id"] for image in truth["images"]], np.int64))
    names = {image["id"]: str(image.get("file_name", image["id"])) for image in truth["images"]}

    def per_image(image_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(np.searchsorted(ids, image_ids), minlength=len(ids))

    objects = per_image(true.image_ids[~true.crowd])
    right = per_image(found.image_ids[chosen & (matching.kind == RIGHT)])
    wrong = per_image(found.image_ids[chosen & (matching.kind != RIGHT) & (matching.kind != IGNORED)])
    errors = wrong + objects - right
    f1 = 2 * right / np.maximum(2 * right + errors, 1)
    rows = [at for at in np.lexsort((ids, f1, -errors)).tolist() if errors[at]][:NUM_WORST]
    return [
        ImageErrors(
            image_id=int(ids[at]),
            file_name=names[int(ids[at])],
            objects=int(objects[at]),
            right=int(right[at]),
            wrong=int(wrong[at]),
            missed=int(objects[at] - right[at]),
            f1=float(f1[at]),
        )
        for at in rows
    ]
