"""COCO's metrics by pycocotools, the reference, and by hotcoco, which equals it to the bit and is the fastest."""

from __future__ import annotations

import contextlib
import io
import os
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvtctl.errors import PvtctlError
from pvtctl.io.allocator import without_collection
from pvtctl.tasks.detection.scoring.compared import FIRST_LIMITS, Compared, Shapes
from pvtctl.tasks.detection.scoring.numpy_backend import by_numpy

Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Precision (10 IoUs, 101 recalls, K, 4 areas, 3 limits of detections) and recall (10, K, 4, 3)."""
_OLDEST = (1, 3)


def has_hotcoco() -> bool:
    """Whether hotcoco can be imported, in a version that has what is used of it."""
    try:
        import hotcoco

        return tuple(int(part) for part in hotcoco.__version__.split(".")[:2]) >= _OLDEST
    except (ImportError, AttributeError, ValueError):
        return False


def by_hotcoco(given: Compared, limit: int) -> Arrays:
    """Score by hotcoco, on as many threads as torch has when it is first called. Raises PvtctlError if hotcoco fails."""
    if _process_of_threads() != os.getpid():
        return by_numpy(given, limit)
    try:
        return _by_hotcoco(given, limit)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, which `except Exception` would let through
            raise
        hint = "`--backend numpy` (in a recipe `eval.backend`) computes the same numbers"
        raise PvtctlError(f"hotcoco failed: {error}", hint) from error


@cache
def _process_of_threads() -> int:
    """The process that scores first. Its threads are not there in one forked later, which would wait for them forever."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(torch.get_num_threads()))
    return os.getpid()


def _by_hotcoco(given: Compared, limit: int) -> Arrays:
    from hotcoco import COCO, COCOeval

    objects, found = given.objects, given.detections
    masks = given.kind == "segm"
    none = np.zeros((max(len(objects), len(found)), 4))  # boxes, where masks are compared
    truth = COCO.from_arrays(
        _images(given),
        _categories(given),
        objects.images,
        objects.labels,
        none[: len(objects)] if masks else objects.shapes,
        ids=np.arange(1, len(objects) + 1),
        area=objects.areas,
        iscrowd=objects.marks.astype(np.int64),
        segmentation=objects.shapes if masks else None,
    )
    boxes = none[: len(found)] if masks else found.shapes
    table = np.column_stack([found.images, boxes, found.marks, found.labels])
    results = truth.load_res(table, segmentation=found.shapes if masks else None)
    if masks and len(found):  # loaded with a box, its area was taken
        results.update_anns(ids=np.arange(1, len(found) + 1), area=found.areas)
    evaluation = COCOeval(truth, results, given.kind)
    evaluation.params.max_dets = [*FIRST_LIMITS, limit]
    evaluation.evaluate()
    evaluation.accumulate()
    result: Any = evaluation.eval
    return result["precision"], result["recall"]


def by_pycocotools(given: Compared, limit: int) -> Arrays:
    """Score by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()), without_collection():
        truth, results = COCO(), COCO()
        for side, shapes, name in ((truth, given.objects, "iscrowd"), (results, given.detections, "score")):
            side.dataset = {
                "images": _images(given),
                "categories": _categories(given),
                "annotations": _annotations(shapes, given.kind, name),
            }
            side.createIndex()
        evaluation = COCOeval(truth, results, given.kind)
        evaluation.params.maxDets = [*FIRST_LIMITS, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _images(given: Compared) -> list[dict[str, Any]]:
    return [{"id": at, "height": size[0], "width": size[1], "file_name": ""} for at, size in enumerate(given.sizes)]


def _categories(given: Compared) -> list[dict[str, Any]]:
    return [{"id": at, "name": str(at)} for at in range(given.classes)]


def _annotations(shapes: Shapes, kind: str, mark: str) -> list[dict[str, Any]]:
    columns = {
        "id": range(1, len(shapes) + 1),  # 0 would be read as "none"
        "image_id": shapes.images.tolist(),
        "category_id": shapes.labels.tolist(),
        "bbox" if kind == "bbox" else "segmentation": shapes.shapes.tolist() if kind == "bbox" else shapes.shapes,
        "area": shapes.areas.tolist(),
        "iscrowd": [0] * len(shapes),
        mark: shapes.marks.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
