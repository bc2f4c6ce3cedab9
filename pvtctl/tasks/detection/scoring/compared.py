"""What COCO's evaluation compares, objects and detections as columns: the same for every implementation of its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.scoring.columns import Columns
from pvtctl.tasks.detection.segments import of_masks, pack_masks

Kind = Literal["bbox", "segm"]
RECALLS = np.linspace(0.0, 1.0, 101)
FIRST_LIMITS = (1, 10)
"""Detections of an image and class that average recall is also computed for; the last limit is COCO's 100, or another."""


@dataclass(frozen=True)
class Shapes:
    """N objects or detections. Images are numbered from 0 in the order of their ids, classes as the labels."""

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    shapes: Any
    """Boxes (N, 4) x, y, width, height, or N compressed run-length masks."""
    areas: NDArray[np.float64]
    marks: NDArray[Any]
    """Whether an object is a crowd; the score of a detection."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp]) -> Shapes:
        """Those at the positions `rows`."""
        shapes = [self.shapes[row] for row in rows.tolist()] if isinstance(self.shapes, list) else self.shapes[rows]
        return Shapes(self.images[rows], self.labels[rows], shapes, self.areas[rows], self.marks[rows])


@dataclass(frozen=True)
class Compared:
    """The objects and detections of the scored images and classes; an object is known by its position, not by an id."""

    kind: Kind
    classes: int
    sizes: list[tuple[int, int]]
    """(height, width) of each image; not read for boxes, and (1, 1) there."""
    objects: Shapes
    detections: Shapes


def columns_to_compare(truth: Mapping[str, Any], category_ids: Sequence[int], found: Columns, kind: Kind) -> Compared:
    """Columns of a COCO dictionary and of detections; what belongs to no image or class of these is left out.

    The area of a detection is its box's for "bbox" and its mask's for "segm". Raises UsageError for a damaged mask in `truth`.
    """
    masks = kind == "segm"
    size_of = {each["id"]: (each["height"], each["width"]) if masks else (1, 1) for each in truth["images"]}
    ids = sorted(size_of)
    places, labels = ({key: at for at, key in enumerate(keys)} for keys in (ids, category_ids))
    rows = [each for each in truth["annotations"] if each["image_id"] in places and each["category_id"] in labels]
    objects = Shapes(
        np.asarray([places[each["image_id"]] for each in rows], np.int64),
        np.asarray([labels[each["category_id"]] for each in rows], np.int64),
        _true_masks(rows, size_of) if masks else np.asarray([each["bbox"] for each in rows], np.float64).reshape(-1, 4),
        np.asarray([each["area"] for each in rows], np.float64),
        np.asarray([bool(each.get("iscrowd", 0)) for each in rows], np.bool_),
    )
    known = np.asarray(ids, np.int64)
    listed = np.isin(found.image_ids, known)
    found = found if listed.all() else found.take(listed)
    shapes: Any = found.boxes
    if masks:
        pairs = zip(found.image_ids.tolist(), found.masks or [], strict=True)
        shapes = [{"size": list(size_of[image]), "counts": counts} for image, counts in pairs]
    at = np.searchsorted(known, found.image_ids)
    with np.errstate(over="ignore"):  # a box may be as large as numbers go
        areas = of_masks(rle.area, shapes) if masks else shapes[:, 2] * shapes[:, 3]
    detections = Shapes(at, found.labels.astype(np.int64), shapes, areas, found.scores)
    return Compared(kind, len(category_ids), [size_of[key] for key in ids], objects, detections)


def _true_masks(rows: Sequence[Mapping[str, Any]], size_of: Mapping[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """The masks of annotations as compressed run lengths of their images."""
    sizes = [size_of[each["image_id"]] for each in rows]
    masks, faults = pack_masks([each["segmentation"] for each in rows], sizes)
    if faults:
        damaged = rows[min(faults)].get("id")
        raise UsageError(f"the mask of annotation {damaged} is damaged", "`pvtctl data check FOLDER` lists every fault")
    return [{"size": list(size), "counts": counts} for size, counts in zip(sizes, masks, strict=True)]
