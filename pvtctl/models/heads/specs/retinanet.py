"""RetinaNet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.models.heads.specs.shapes import PAPER_WIDTH, Width, fpn_width
from pvtctl.models.registry import DETECTION, HeadMark, HeadOptions, HeadSpec, State, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

_CLASSES, _BOXES = "head.classification_head.cls_logits", "head.regression_head.bbox_reg.weight"


class RetinaNetOptions(HeadOptions):
    width: Width | None = None
    """Channels of the FPN and of all convolutions after it; unset: 256."""


def _build(backbone: Backbone, options: RetinaNetOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.retinanet import RetinaNet
    from pvtctl.models.necks.fpn import Fpn

    width, conventions = options.width or PAPER_WIDTH, target.conventions
    neck = Fpn(backbone.feature_channels, extra="p6p7", start_level=1, conventions=conventions, out_channels=width)
    return neck, RetinaNet(target.num_classes, conventions=conventions, in_channels=width)


def _count_classes(state: State) -> int:
    boxes = state.get(_BOXES)
    anchors = boxes.shape[0] // 4 if boxes is not None else 9
    return state[f"{_CLASSES}.weight"].shape[0] // anchors if anchors else 0


RETINANET = HeadSpec(
    name="retinanet",
    tasks=(DETECTION,),
    title="RetinaNet",
    Options=RetinaNetOptions,
    build=_build,
    marks=(
        HeadMark(
            DETECTION,
            frozenset({f"{_CLASSES}.weight"}),
            _count_classes,
            beside=frozenset({"neck.inner_blocks.0.0.weight"}),
        ),
    ),
    class_tables={_CLASSES: "anchors"},
    options_of=fpn_width,
    publisher="mmdetection",
    recipes={DETECTION: "coco_retinanet_1x"},
    parts={"classification_head": "classification", "regression_head": "regression"},
)
