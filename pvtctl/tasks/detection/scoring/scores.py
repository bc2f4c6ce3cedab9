"""COCO's metrics. pycocotools is the reference; hotcoco and `numpy_backend` compute the same bits in less time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns
from pvtctl.tasks.detection.scoring.compared import Kind, columns_to_compare
from pvtctl.tasks.detection.scoring.numpy_backend import by_numpy
from pvtctl.tasks.detection.scoring.other_backends import by_hotcoco, by_pycocotools, has_hotcoco
from pvtctl.tasks.detection.settings import as_backend

_IMPLEMENTATIONS = {"hotcoco": by_hotcoco, "numpy": by_numpy, "pycocotools": by_pycocotools}
BACKENDS = ("auto", *_IMPLEMENTATIONS)
RECALL_NAMES = ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def choose_backend(backend: str) -> str:
    """The implementation's name; "auto" is "hotcoco" if it is installed, else "numpy". Raises UsageError for others."""
    backend = as_backend(backend)
    if backend not in BACKENDS:
        raise UsageError(f"no metric backend {backend!r}", f"one of: {', '.join(BACKENDS)}")
    if backend == "auto":
        return "hotcoco" if has_hotcoco() else "numpy"
    if backend == "hotcoco" and not has_hotcoco():
        raise UsageError(
            "hotcoco 1.3 or newer is not installed", "pip install 'pvtctl[fast]', or leave the choice to auto"
        )
    return backend


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
    given = columns_to_compare(truth, category_ids, found, kind)
    return CocoScores(*_IMPLEMENTATIONS[backend](given, limit), limit)


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
