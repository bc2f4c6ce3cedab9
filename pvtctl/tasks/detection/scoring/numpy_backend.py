"""COCO's evaluation on columns of numbers: bit-identical to pycocotools, without a Python object per detection.

The rules, and the order in which ties are resolved, are those of pycocotools' `COCOeval`; so are the overlaps, from its
C code. It is fast because the detections of one rank, each of another image and class, are matched
at once, and precision is computed only at right detections: between two of those it can only fall.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT, Columns
from pvtctl.tasks.detection.segments import pack_masks

Kind = Literal["bbox", "segm"]
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.asarray([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""All, small, medium and large: lower and upper area in pixels, inclusive."""
FIRST_LIMITS = (1, 10)
"""Detections of an image and class that average recall is also computed for; the last limit is COCO's 100, or another."""
_MISSED, _SET_ASIDE, _RIGHT = 0, 1, 2  # a detection matches nothing, an object that does not count, one that does


@dataclass
class _Shapes:
    """Objects or detections, sorted by cell: an image and a class, in the order of images."""

    cells: NDArray[np.int64]
    shapes: Any
    """Boxes (N, 4) x, y, width, height, or N run-length masks."""
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]

    @property
    def outside(self) -> NDArray[np.bool_]:
        """(N, 4) whether the area is out of each range."""
        return (self.areas[:, None] < AREAS[:, 0]) | (self.areas[:, None] > AREAS[:, 1])


def precision_and_recall(
    truth: Mapping[str, Any], category_ids: Sequence[int], found: Columns, kind: Kind, limit: int = COCO_LIMIT
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (10 IoUs, 101 recalls, K, 4 areas, 3 limits of detections) and highest recall (10, K, 4, 3).

    -1 where there are no objects. `truth` is a COCO dictionary. The area of a detection is its box's for "bbox" and
    its mask's for "segm". Objects are identified by position, not by id: COCO's tools take id 0 for "none".
    """
    classes = len(category_ids)
    images = np.unique(np.asarray([image["id"] for image in truth["images"]], np.int64))
    objects = _objects(truth, category_ids, images, kind)
    found = found.take(np.isin(found.image_ids, images))
    cells = np.searchsorted(images, found.image_ids) * classes + found.labels
    order = np.lexsort((-found.scores, cells))
    ranks = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    kept = ranks < limit
    ranks, found, cells = ranks[kept], found.take(order[kept]), cells[order[kept]]
    detections = _Shapes(cells, *shapes_and_areas(truth, found, kind), np.zeros(len(found), np.bool_))

    aside = objects.outside | objects.crowds[:, None]
    hits = _match(_overlaps(objects, detections), ranks, objects.crowds, aside)
    precision, recall = np.full((10, 101, classes, 4, 3), -1.0), np.full((10, classes, 4, 3), -1.0)
    outside = detections.outside
    order = np.lexsort((-found.scores, found.labels))  # ties stay in the order of images and ranks
    ends = np.searchsorted(found.labels[order], np.arange(classes + 1))
    for label, (start, end) in enumerate(pairwise(ends.tolist())):
        to_find = (~aside[objects.cells % classes == label]).sum(axis=0)
        for column, most in enumerate((*FIRST_LIMITS, limit)):
            rows = order[start:end]
            rows = rows[ranks[rows] < most]
            hit = hits[rows]
            counts = (hit == _RIGHT) | ((hit == _MISSED) & ~outside[rows, None])
            numbers = counts.cumsum(axis=0, dtype=np.int32)
            for area in np.flatnonzero(to_find).tolist():
                for iou in range(len(IOUS)):
                    right = np.flatnonzero(hit[:, iou, area] == _RIGHT)
                    curve, highest = _curve(numbers[right, iou, area], int(to_find[area]))
                    precision[iou, :, label, area, column] = curve
                    recall[iou, label, area, column] = highest
    return precision, recall


def _objects(truth: Mapping[str, Any], category_ids: Sequence[int], images: NDArray[np.int64], kind: Kind) -> _Shapes:
    """The objects of the scored images and classes."""
    labels = {category: label for label, category in enumerate(category_ids)}
    places = {image: place for place, image in enumerate(images.tolist())}
    rows = [each for each in truth["annotations"] if each["image_id"] in places and each["category_id"] in labels]
    cells = [places[each["image_id"]] * len(labels) + labels[each["category_id"]] for each in rows]
    order = np.argsort(np.asarray(cells, np.int64), kind="stable")
    rows = [rows[at] for at in order.tolist()]
    shapes: Any
    if kind == "bbox":
        shapes = np.asarray([each["bbox"] for each in rows], np.float64).reshape(-1, 4)
    else:
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        shapes = true_masks(rows, [sizes[each["image_id"]] for each in rows])
    areas = np.asarray([each["area"] for each in rows], np.float64)
    crowds = np.asarray([bool(each.get("iscrowd", 0)) for each in rows], np.bool_)
    return _Shapes(np.asarray(cells, np.int64)[order], shapes, areas, crowds)


def true_masks(annotations: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The masks of annotations as compressed run lengths of their images. Raises UsageError for a damaged one."""
    masks, faults = pack_masks([each["segmentation"] for each in annotations], sizes)
    if faults:
        damaged = annotations[min(faults)].get("id")
        raise UsageError(f"the mask of annotation {damaged} is damaged", "`pvtctl data check FOLDER` lists every fault")
    return [{"size": list(size), "counts": counts} for size, counts in zip(sizes, masks, strict=True)]


def shapes_and_areas(truth: Mapping[str, Any], found: Columns, kind: Kind) -> tuple[Any, NDArray[np.float64]]:
    """The boxes of `found`, or the masks as run lengths with the size of their images; and their areas."""
    if kind == "bbox":
        return found.boxes, found.boxes[:, 2] * found.boxes[:, 3]
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    pairs = zip(found.image_ids.tolist(), found.masks or [], strict=True)
    masks = [{"size": sizes[image], "counts": counts} for image, counts in pairs]
    # pycocotools stores the number of masks in a byte, so that more than 255 at a time raise an error
    areas = [area for at in range(0, len(masks), 255) for area in rle.area(masks[at : at + 255]).tolist()]
    return masks, np.asarray(areas, np.float64)


def _overlaps(
    objects: _Shapes, detections: _Shapes
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]]:
    """For each cell, the rows of detections and of objects that overlap enough for the lowest IoU, and how much."""
    cells, starts = np.unique(detections.cells, return_index=True)
    ends = np.append(starts[1:], len(detections.cells))
    first, last = (np.searchsorted(objects.cells, cells, side) for side in ("left", "right"))
    there = last > first
    for d0, d1, o0, o1 in zip(*(each[there].tolist() for each in (starts, ends, first, last)), strict=True):
        ious = rle.iou(detections.shapes[d0:d1], objects.shapes[o0:o1], objects.crowds[o0:o1])
        detection, thing = np.nonzero(ious >= IOUS[0])
        yield detection + d0, thing + o0, ious[detection, thing]


def _match(
    overlaps: Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]],
    ranks: NDArray[np.intp],
    crowds: NDArray[np.bool_],
    aside: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """The match of each detection for each IoU and area range, (N, 10, 4).

    In the order of scores within an image and class, each takes the free object of the highest overlap,
    of equal ones the last, and one `aside` only if there is no other. Crowds are always free.
    """
    hits = np.zeros((len(ranks), len(IOUS), len(AREAS)), np.int8)
    parts = list(overlaps)
    if not parts:
        return hits
    detections, things, ious = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((things, ious, detections, ranks[detections]))
    detections, things, reached = detections[order], things[order], ious[order, None] >= IOUS
    taken = np.zeros((len(crowds), len(IOUS), len(AREAS)), np.bool_)
    for start, end in pairwise(np.searchsorted(ranks[detections], np.arange(ranks.max(initial=0) + 2)).tolist()):
        if start == end:
            continue
        who, what, count = detections[start:end], things[start:end], end - start
        free = reached[start:end, :, None] & (crowds[what, None, None] | ~taken[what])
        preference = np.arange(1, count + 1)[:, None] + count * ~aside[what]
        first = np.flatnonzero(np.append(True, who[1:] != who[:-1]))
        best = np.maximum.reduceat(np.where(free, preference[:, None], 0), first)
        hits[who[first]] = np.where(best > count, _RIGHT, np.where(best > 0, _SET_ASIDE, _MISSED))
        row, iou, area = np.nonzero(best)
        taken[what[(best[row, iou, area] - 1) % count], iou, area] = True
    return hits


def _curve(numbers: NDArray[np.int32], to_find: int) -> tuple[NDArray[np.float64], float]:
    """Precision at 101 recalls and the highest recall, for right detections with these `numbers` among all."""
    if not len(numbers):
        return np.zeros(len(RECALLS)), 0.0
    right = np.arange(1, len(numbers) + 1)
    recalls, precisions = right / to_find, right / (numbers + np.spacing(1))
    best_from = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
    return best_from[np.searchsorted(recalls, RECALLS)], float(recalls[-1])
