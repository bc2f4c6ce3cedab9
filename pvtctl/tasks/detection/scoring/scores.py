"""COCO's metrics; pycocotools is the reference, `numpy_backend` and faster-coco-eval compute the same faster."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns
from pvtctl.tasks.detection.scoring.numpy_backend import (
    FIRST_LIMITS,
    Kind,
    precision_and_recall,
    shapes_and_areas,
    true_masks,
)

BACKENDS = ("auto", "numpy", "pycocotools", "faster")
RECALL_NAMES = ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def choose_backend(backend: str) -> str:
    """ "numpy", which "auto" means, "pycocotools" or "faster" (faster-coco-eval). Raises UsageError for any other name."""
    if backend not in BACKENDS:
        raise UsageError(f"no metric backend {backend!r}", f"one of: {', '.join(BACKENDS)}")
    if backend == "faster" and importlib.util.find_spec("faster_coco_eval") is None:
        raise UsageError("faster-coco-eval is not installed", "pip install faster-coco-eval, or use pycocotools")
    return "numpy" if backend == "auto" else backend


@dataclass(frozen=True)
class CocoScores:
    """Precision and recall of every class, from COCO's evaluation; -1 where there are no objects."""

    precision: NDArray[np.float64]
    """(10 IoUs, 101 recalls, K, 4 areas, 3 limits of detections)."""
    recall: NDArray[np.float64]
    """(10 IoUs, K, 4 areas, 3 limits of detections)."""
    most: int = COCO_LIMIT
    """The last limit: detections of an image and class that count."""

    def ap(self, *, iou: int | None = None, area: int = 0, label: int | None = None) -> float:
        """Mean precision over classes with objects; NaN without any. `iou`: position in 0.5, 0.55 ..."""
        values = self.precision[..., area, 2]
        return _mean(values if iou is None else values[iou], label)

    def ar(self, *, limit: int = 2, area: int = 0, label: int | None = None) -> float:
        """Mean highest recall with 1, 10 or `most` detections per image and class (`limit` 0, 1, 2)."""
        return _mean(self.recall[:, :, area, limit], label)

    def numbers(self) -> dict[str, float]:
        """COCO's twelve metrics, as fractions; NaN where COCO prints -1. `ar_100` is named by the limit."""
        aps = [self.ap(), self.ap(iou=0), self.ap(iou=5), *(self.ap(area=area) for area in (1, 2, 3))]
        ars = [*(self.ar(limit=limit) for limit in range(3)), *(self.ar(area=area) for area in (1, 2, 3))]
        recalls = [f"ar_{self.most}" if name == f"ar_{COCO_LIMIT}" else name for name in RECALL_NAMES]
        return dict(zip((*NAMES, *recalls), (*aps, *ars), strict=True))


def _mean(values: NDArray[np.float64], label: int | None) -> float:
    values = values if label is None else values[..., label]
    there = values[values > -1]
    return float(np.mean(there)) if there.size else float("nan")


def evaluate_columns(
    truth: Mapping[str, Any],
    category_ids: Sequence[int],
    found: Columns,
    kind: Kind,
    backend: str,
    limit: int = COCO_LIMIT,
) -> CocoScores:
    """Score `found` against `truth` (a COCO dictionary, not modified) over all its images.

    The `limit` best detections of an image and class count, in COCO 100. The area of a detection is its
    box's for "bbox" and its mask's for "segm". `backend`: see `choose_backend`.
    """
    if backend == "numpy":
        return CocoScores(*precision_and_recall(truth, category_ids, found, kind, limit), limit)
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster as Evaluation
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    with contextlib.redirect_stdout(io.StringIO()), _no_collection():
        gt, dt = COCO(), COCO()
        objects = [{"iscrowd": 0, **each} for each in truth["annotations"]]
        if kind == "segm":
            sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
            objects = [each for each in objects if each["image_id"] in sizes]
            masks = true_masks(objects, [sizes[each["image_id"]] for each in objects])
            objects = [{**each, "segmentation": mask} for each, mask in zip(objects, masks, strict=True)]
        for side, annotations in ((gt, objects), (dt, _annotations(truth, category_ids, found, kind))):
            side.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
            side.createIndex()
        evaluation = Evaluation(gt, dt, kind)
        evaluation.params.catIds = list(category_ids)
        evaluation.params.maxDets = [*FIRST_LIMITS, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    order = np.argsort(np.argsort(np.asarray(category_ids)))  # COCO's evaluation sorts classes by id
    result = evaluation.eval
    precision, recall = np.asarray(result["precision"]), np.asarray(result["recall"])
    shape = result["counts"]
    return CocoScores(precision.reshape(shape)[:, :, order], recall.reshape([shape[0], *shape[2:]])[:, order], limit)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection: evaluation creates a million live objects; saves a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _annotations(
    truth: Mapping[str, Any], category_ids: Sequence[int], found: Columns, kind: Kind
) -> list[dict[str, Any]]:
    shapes, areas = shapes_and_areas(truth, found, kind)
    columns = {
        "id": range(1, len(found) + 1),
        "image_id": found.image_ids.tolist(),
        "category_id": np.asarray(category_ids, np.int64)[found.labels].tolist(),
        "score": found.scores.tolist(),
        **({"bbox": shapes.tolist()} if kind == "bbox" else {"segmentation": shapes}),
        "area": areas.tolist(),
        "iscrowd": [0] * len(found),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def why_missing(name: str, truth: Mapping[str, Any]) -> str:
    """Reason why a number such as `box_ap_small` is NaN, which COCO's own tools print as -1."""
    kinds = {
        "small": "no objects below 32x32 pixels",
        "medium": "no objects between 32x32 and 96x96 pixels",
        "large": "no objects above 96x96 pixels",
    }
    if not any(not each.get("iscrowd") for each in truth["annotations"]):
        return "no objects in the annotations"
    return f"{kinds.get(name.rsplit('_', 1)[-1], 'no objects to find')} in the annotations"
