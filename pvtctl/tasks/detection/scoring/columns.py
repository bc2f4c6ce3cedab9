"""Detections of many images as columns of numbers: 52 bytes each, plus the mask's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.models.structures import Detections

COCO_LIMIT = 100
"""Detections of an image and class that COCO's evaluation counts."""
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

    def best(self, most: int = COCO_LIMIT, *, by_class: bool = True) -> Columns:
        """Only the `most` best of an image and class, as COCO counts them, or of a whole image."""
        labels = self.labels if by_class else np.zeros_like(self.labels)
        order = np.lexsort((-self.scores, labels, self.image_ids))
        image, label = self.image_ids[order], labels[order]
        first = np.append(True, (image[1:] != image[:-1]) | (label[1:] != label[:-1]))[: len(order)]
        starts = np.flatnonzero(first)
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        return self if (rank < most).all() else self.take(np.sort(order[rank < most]))


def join(parts: Iterable[Columns], *, masks: bool) -> Columns:
    """Concatenate."""
    nothing = Columns(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0), np.zeros((0, 4)))
    parts = list(parts) or [nothing]
    return Columns(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        [mask for part in parts for mask in part.masks or ()] if masks else None,
    )


def counts_of(mask: dict[str, Any]) -> bytes:
    """The counts of a compressed run-length mask as bytes."""
    counts = mask["counts"]
    return counts if isinstance(counts, bytes) else str(counts).encode("ascii")


def columns_of(image_id: int, found: Detections, *, masks: bool) -> tuple[Columns, int]:
    """Detections of one image, and how many were left out for a non-finite number."""
    columns = Columns(
        np.full(len(found), image_id, np.int64),
        found.labels.cpu().numpy().astype(np.int32),
        found.scores.detach().double().cpu().numpy().round(SCORE_DECIMALS),
        xywh(found.boxes),
        [counts_of(mask) for mask in found.masks] if masks and found.masks is not None else None,
    )
    finite = np.isfinite(columns.scores) & np.isfinite(columns.boxes).all(axis=1)
    return (columns, 0) if finite.all() else (columns.take(finite), int((~finite).sum()))


def xywh(boxes: Tensor) -> NDArray[np.float64]:
    """Boxes xyxy -> x, y, width, height, rounded."""
    corners = boxes.detach().cpu().numpy().astype(np.float64).reshape(-1, 4)
    return np.round(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), BOX_DECIMALS)
