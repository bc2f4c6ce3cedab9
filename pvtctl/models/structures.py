"""Data exchanged between datasets, detectors, metrics and pictures: an image's objects and its detections.

Boxes are (N, 4) float32, xyxy, in pixels of the image they belong to; labels are int64 from 0, in the order of the class
names. Masks of objects are bool (N, H, W); those of detections are COCO run-length encodings, which are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ImageSize = tuple[int, int]
"""(height, width) in pixels."""
Sizes = Sequence[ImageSize]
"""Of the images of a batch, without padding."""
Maps = Sequence[Tensor]
"""(B, C, h, w), finest first."""
IGNORE_LABEL = 255
"""In label maps: unlabelled; neither trained on nor scored."""


@dataclass
class Objects:
    """The ground-truth objects of one image, without crowd regions."""

    boxes: Tensor
    """float32 (N, 4) xyxy, pixels of the network's input."""
    labels: Tensor
    """int64 (N,), 0 to K - 1."""
    masks: Tensor | None = None
    """bool (N, H, W), the image's size before padding; None where the data has none or they are not needed."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Any) -> Objects:
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Objects(self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), masks)


@dataclass
class MaskGrids:
    """A head's raw masks: a grid of probabilities for each box (`pvtctl.models.heads.masks` pastes them)."""

    probabilities: Tensor
    """float32 (N, S, S), 0 to 1."""
    rounded: bool = False
    """Pasted as in torchvision, into boxes of whole pixels; else at exact positions, as in mmdetection."""


@dataclass
class Detections:
    """The detections in one image, best first."""

    boxes: Tensor
    """float32 (N, 4) xyxy."""
    scores: Tensor
    """float32 (N,), 0 to 1."""
    labels: Tensor
    """int64 (N,), 0 to K - 1."""
    masks: list[dict[str, Any]] | None = None
    """COCO RLEs ({"size": [H, W], "counts": bytes}) at the size of the image of the boxes."""
    grids: MaskGrids | None = None
    """Masks before pasting: from a head's `detect`; `Detector.forward` turns them into `masks`."""

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, rows: Tensor) -> Detections:
        """Those at `rows`, positions or a mask (N,) of booleans."""
        masks = None
        if self.masks is not None:
            places = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
            masks = [self.masks[at] for at in places.tolist()]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], masks)


@dataclass(frozen=True)
class DetectOptions:
    """Options of post-processing; None: the head's default (that of the papers' configurations)."""

    score_threshold: float | None = None
    """RetinaNet and Mask R-CNN 0.05, DETR 0."""
    nms_iou: float | None = None
    """0.5; DETR has no NMS and refuses this option."""
    max_detections: int | None = None
    """100 per image."""
