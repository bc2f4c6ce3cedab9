"""Detections of many images as columns of numbers: 52 bytes each, plus the mask's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

BOX_DECIMALS = 4
SCORE_DECIMALS = 9
# A number rounded to decimals is read back exactly from its printed form. So scoring detections and scoring the
# file that they were saved to give identical results. Nine decimals keep any two float32 scores above 0.01 apart.


@dataclass
class Columns:
    """N detections; `image_ids` are those of the data, `labels` run from 0 in the order of its classes."""

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int32]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    """(N, 4) x, y, width, height in pixels of the original image, as in COCO."""
    masks: list[bytes] | None = None
    """Counts of COCO's compressed run lengths, each of the size of its image."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any]) -> Columns:
        """The detections at `rows` (positions or a mask of booleans)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        masks = None if self.masks is None else [self.masks[row] for row in rows.tolist()]
        return Columns(self.image_ids[rows], self.labels[rows], self.scores[rows], self.boxes[rows], masks)

    def by_image(self) -> Columns:
        """Sorted by image; stable within an image."""
        if not (np.diff(self.image_ids) < 0).any():
            return self
        return self.take(np.argsort(self.image_ids, kind="stable"))

    def best_hundred(self) -> Columns:
        """Without those that COCO drops: beyond the hundred best of an image and class."""
        order = np.lexsort((-self.scores, self.labels, self.image_ids))
        image, label = self.image_ids[order], self.labels[order]
        first = np.append(True, (image[1:] != image[:-1]) | (label[1:] != label[:-1]))[: len(order)]
        starts = np.flatnonzero(first)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        return self if (rank < 100).all() else self.take(np.sort(order[rank < 100]))

    def as_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def empty_columns(masks: bool) -> Columns:
    return Columns(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0), np.zeros((0, 4)), [] if masks else None)


def join(parts: Iterable[Columns], *, masks: bool) -> Columns:
    """Concatenate."""
    parts = list(parts) or [empty_columns(masks)]
    joined = [mask for part in parts for mask in part.masks or ()] if masks else None
    return Columns(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        joined,
    )


def counts_of(mask: dict[str, Any]) -> bytes:
    """The counts of a compressed run-length mask as bytes."""
    counts = mask["counts"]
    return counts if isinstance(counts, bytes) else str(counts).encode("ascii")


def columns_of(
    image_id: int, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: Sequence[Any] | None
) -> tuple[Columns, int]:
    """Detections of one image, `boxes` (N, 4) xyxy, and how many were left out for a non-finite number."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scores = np.asarray(scores, np.float64)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    found = Columns(
        np.full(len(scores), image_id, np.int64),
        np.asarray(labels, np.int32),
        np.round(scores, SCORE_DECIMALS),
        np.round(xywh, BOX_DECIMALS),
        None if masks is None else [counts_of(mask) for mask in masks],
    )
    finite = np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1)
    if finite.all():
        return found, 0
    return found.take(finite), int((~finite).sum())
