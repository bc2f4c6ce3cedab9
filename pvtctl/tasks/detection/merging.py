"""Test-time augmentation: detections of several views of one image become one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pvtctl.models.structures import Detections, DetectOptions, ImageSize

NMS_IOU = 0.5
MAX_DETECTIONS = 100


def merge_views(views: Sequence[Detections], options: DetectOptions) -> Detections:
    """All detections of all views, all in pixels of one image, after non-maximum suppression within each class."""
    from torchvision.ops import batched_nms

    boxes = torch.cat([view.boxes for view in views])
    scores = torch.cat([view.scores for view in views])
    labels = torch.cat([view.labels for view in views])
    iou = NMS_IOU if options.nms_iou is None else options.nms_iou
    most = MAX_DETECTIONS if options.max_detections is None else options.max_detections
    kept = batched_nms(boxes.float(), scores.float(), labels, iou)[:most]
    masks = None
    if all(view.masks is not None for view in views):
        everyone = [mask for view in views for mask in view.masks or []]
        masks = [everyone[at] for at in kept.tolist()]
    return Detections(boxes[kept], scores[kept], labels[kept], masks)


def mirrored(found: Detections, size: ImageSize) -> Detections:
    """Detections of an image that was flipped left to right, moved to their positions in the original."""
    left, top, right, bottom = found.boxes.unbind(1)
    boxes = torch.stack([size[1] - right, top, size[1] - left, bottom], dim=1)
    masks = None if found.masks is None else [_mirrored_mask(mask) for mask in found.masks]
    return Detections(boxes, found.scores, found.labels, masks)


def _mirrored_mask(mask: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask as coco_mask

    flipped: dict[str, Any] = coco_mask.encode(np.asfortranarray(coco_mask.decode(mask)[:, ::-1]))
    return flipped
