"""Detectors as they are counted and timed: every network part once, on a fixed number of boxes, without any search among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError, nearest
from pvtctl.models.detector import HEADS, Detector, build_detector
from pvtctl.models.variants import known_variant

NUM_CLASSES = 80
"""COCO's."""
PROPOSALS, DETECTIONS = 1000, 100
"""Boxes that Mask R-CNN's box head and mask head look at in an image: as many as the papers' configurations let through."""


class RawDetector(nn.Module):
    """Images (B, 3, H, W) -> raw outputs of all network parts of a detector, with its own parameter names.

    Mask R-CNN's second stage runs on PROPOSALS and DETECTIONS empty regions an image, whatever its first stage found.
    Images are taken as they are, not padded.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.neck = detector.neck
        self.head = detector.head

    def forward(self, images: Tensor) -> list[Any]:
        from pvtctl.models.heads.detr import Detr
        from pvtctl.models.heads.mask_rcnn import CELLS_BOX, CELLS_MASK, MaskRcnn
        from pvtctl.models.heads.retinanet import RetinaNet

        maps = self.backbone(images)
        features = list(maps if self.neck is None else self.neck(maps))
        size = (int(images.shape[2]), int(images.shape[3]))
        match self.head:
            case RetinaNet():
                return list(self.head.raw(features))
            case MaskRcnn():
                boxes, masks = (
                    features[0].new_zeros(number * len(images), features[0].shape[1], cells, cells)
                    for number, cells in ((PROPOSALS, CELLS_BOX), (DETECTIONS, CELLS_MASK))
                )
                return [*self.head.rpn.raw(features), *self.head.boxes(boxes), self.head.masks(masks)]
            case Detr():
                out = self.head.raw(features, [size] * len(images), size)
                return [out.logits, out.boxes]
            case _:
                raise TypeError(f"no raw outputs of {type(self.head).__name__}")


def build_detector_as_papers(
    backbone: str, head: str, num_classes: int = NUM_CLASSES, output_stride: int | None = None
) -> Detector:
    """The detector in eval mode with random weights; ResNets as the papers' detectors have them: stem and stage 1 frozen.

    Raises UsageError for unknown names.
    """
    if head not in HEADS:
        raise UsageError(f"no head {head!r}", nearest(head, HEADS))
    variant = known_variant(backbone)
    options: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    if variant is not None and variant.family == "resnet":
        options |= {"frozen_stages": 1, "freeze_norm": True}
    return build_detector(backbone, head, num_classes=num_classes, backbone_options=options).eval()


def output_loss(outputs: Any) -> Tensor:
    """A scalar that makes gradients flow through all raw outputs."""
    if isinstance(outputs, Tensor):
        return outputs.float().mean()
    means = [one.float().mean() for entry in outputs for one in (entry if isinstance(entry, list) else [entry])]
    return torch.stack(means).sum()
