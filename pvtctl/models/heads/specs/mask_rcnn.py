"""Mask R-CNN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pvtctl.models.heads.specs.shapes import PAPER_WIDTH, Width, class_counter, fpn_width
from pvtctl.models.registry import DETECTION, HeadMark, HeadOptions, HeadSpec, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

_MASKS, _SCORES = "head.mask_predictor.mask_fcn_logits", "head.box_predictor.cls_score"


class MaskRcnnOptions(HeadOptions):
    rois_per_image: Annotated[int, Field(ge=4, le=10_000)] = 512
    """Proposals per image that the second stage trains on, at most a quarter of them objects."""
    width: Width | None = None
    """Channels of the FPN and of all convolutions after it; the box head has four times as many; unset: 256."""


def _build(backbone: Backbone, options: MaskRcnnOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.mask_rcnn import MaskRcnn
    from pvtctl.models.necks.fpn import Fpn

    width, conventions = options.width or PAPER_WIDTH, target.conventions
    neck = Fpn(backbone.feature_channels, extra="pool", start_level=0, conventions=conventions, out_channels=width)
    return neck, MaskRcnn(
        target.num_classes, conventions=conventions, in_channels=width, rois_per_image=options.rois_per_image
    )


MASK_RCNN = HeadSpec(
    name="mask_rcnn",
    tasks=(DETECTION,),
    title="Mask R-CNN",
    Options=MaskRcnnOptions,
    build=_build,
    marks=(
        HeadMark(
            DETECTION,
            frozenset({f"{_MASKS}.weight"}),
            class_counter(f"{_SCORES}.weight", background=1),
            beside=frozenset({"neck.inner_blocks.0.0.weight"}),
        ),
    ),
    class_tables={_SCORES: "background", "head.box_predictor.bbox_pred": "boxes", _MASKS: "plain"},
    options_of=fpn_width,
    publisher="mmdetection",
    needs_masks=True,
    unexportable=(
        "its box and mask heads run on what NMS (torchvision::nms) leaves of the RPN's proposals and RoIAlign "
        "(torchvision::roi_align) cuts out for them, another number for every image"
    ),
    recipes={DETECTION: "coco_mask_rcnn_1x"},
    parts={
        "rpn": "rpn",
        "box_head": "box",
        "box_predictor": "box",
        "mask_head": "mask",
        "mask_predictor": "mask",
    },
)
