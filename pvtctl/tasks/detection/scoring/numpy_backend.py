"""COCO's evaluation on columns of numbers: bit-identical to pycocotools, without a Python object per detection.

The rules, and the order in which ties are resolved, are those of pycocotools' `COCOeval`; so are the overlaps, from its
C code. It is fast because the detections of one rank, each of another image and class, are matched
at once, and precision is computed only at right detections: between two of those it can only fall.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from pvtctl.tasks.detection.scoring.compared import FIRST_LIMITS, RECALLS, Compared, Shapes

IOUS = np.linspace(0.5, 0.95, 10)
AREAS = np.asarray([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""All, small, medium and large: lower and upper area in pixels, inclusive."""
_MISSED, _SET_ASIDE, _RIGHT = 0, 1, 2  # a detection matches nothing, an object that does not count, one that does


def by_numpy(given: Compared, limit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (10 IoUs, 101 recalls, K, 4 areas, 3 limits of detections) and highest recall (10, K, 4, 3).

    -1 where there are no objects.
    """
    classes = given.classes
    objects = given.objects.take(np.argsort(_cells(given.objects, classes), kind="stable"))
    found, cells = given.detections, _cells(given.detections, classes)
    order = np.lexsort((-found.marks, cells))
    ranks = np.arange(len(order)) - np.searchsorted(cells[order], cells[order])
    kept = ranks < limit
    ranks, found = ranks[kept], found.take(order[kept])

    aside = _outside(objects) | objects.marks[:, None]
    hits = _match(_overlaps(objects, found, classes), ranks, objects.marks, aside)
    precision, recall = np.full((10, 101, classes, 4, 3), -1.0), np.full((10, classes, 4, 3), -1.0)
    outside = _outside(found)
    order = np.lexsort((-found.marks, found.labels))  # ties stay in the order of images and ranks
    ends = np.searchsorted(found.labels[order], np.arange(classes + 1))
    for label, (start, end) in enumerate(pairwise(ends.tolist())):
        to_find = (~aside[objects.labels == label]).sum(axis=0)
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


def _cells(shapes: Shapes, classes: int) -> NDArray[np.int64]:
    """A number for each image and class, in the order of images."""
    return shapes.images * classes + shapes.labels


def _outside(shapes: Shapes) -> NDArray[np.bool_]:
    """(N, 4) whether the area is out of each range."""
    return (shapes.areas[:, None] < AREAS[:, 0]) | (shapes.areas[:, None] > AREAS[:, 1])


def _overlaps(
    objects: Shapes, detections: Shapes, classes: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]]:
    """For each cell, the rows of detections and of objects that overlap enough for the lowest IoU, and how much."""
    of_detection, of_object = _cells(detections, classes), _cells(objects, classes)
    cells, starts = np.unique(of_detection, return_index=True)
    ends = np.append(starts[1:], len(of_detection))
    first, last = (np.searchsorted(of_object, cells, side) for side in ("left", "right"))
    there = last > first
    for d0, d1, o0, o1 in zip(*(each[there].tolist() for each in (starts, ends, first, last)), strict=True):
        ious = rle.iou(detections.shapes[d0:d1], objects.shapes[o0:o1], objects.marks[o0:o1])
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
