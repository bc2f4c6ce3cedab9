"""What data, detectors, metrics and pictures hand to one another: the objects of an image, and what a detector says of it.

Boxes are (N, 4) float32, xyxy, in pixels of the image they belong to; labels are int64 from 0, in the order of the class
names. Masks of objects are bool (N, H, W); those of detections are COCO run-length encodings, which stay small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

ImageSize = tuple[int, int]
"""(height, width) in pixels."""
IGNORE_LABEL = 255
"""In label maps: no class; neither learned nor scored."""


@dataclass
class Objects:
    """The true objects of one image; crowd regions are not among them."""

    boxes: Tensor
    """float32 (N, 4) xyxy, pixels of the image as the network sees it."""
    labels: Tensor
    """int64 (N,), 0 to K - 1."""
    masks: Tensor | None = None
    """bool (N, H, W), the image's size before padding; None where the data has none or nobody asks for them."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Any) -> Objects:
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return Objects(self.boxes.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), masks)


@dataclass
class MaskGrids:
    """Masks as a head gives them: a grid of probabilities laid over each box (`pvtctl.models.heads.masks` pastes them)."""

    probabilities: Tensor
    """float32 (N, S, S), 0 to 1."""
    rounded: bool = False
    """Pasted as torchvision does, into boxes of whole pixels; else where the box lies exactly, as mmdetection does."""


@dataclass
class Detections:
    """What a detector found in one image, best first."""

    boxes: Tensor
    """float32 (N, 4) xyxy."""
    scores: Tensor
    """float32 (N,), 0 to 1."""
    labels: Tensor
    """int64 (N,), 0 to K - 1."""
    masks: list[dict[str, Any]] | None = None
    """COCO RLEs ({"size": [H, W], "counts": bytes}) at the size of the image that the boxes are in."""
    grids: MaskGrids | None = None
    """Masks that are not pasted yet: what a head's `detect` gives, and `Detector.forward` turns into `masks`."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DetectOptions:
    """How raw outputs become detections; None: the head's own value (that of the papers' configurations)."""

    score_threshold: float | None = None
    """RetinaNet and Mask R-CNN 0.05, DETR 0."""
    nms_iou: float | None = None
    """0.5; DETR has no NMS and refuses one."""
    max_detections: int | None = None
    """100 an image."""
