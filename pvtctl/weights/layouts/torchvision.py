"""Parameter names of torchvision's ResNets and ResNeXts (timm's are the same) and of its first RetinaNet and Mask R-CNN.

Deep stems: timm's and Trans2Seg's have pvtctl's names, `conv1.0` to `conv1.6` and `bn1`; OpenMMLab's ResNetV1c has one
sequence. Source of the detectors' names: torchvision.models.detection (`*_resnet50_fpn`); the published files still have
the names of torchvision before 0.13, which its modules rename when loading.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

PUBLISHED_SHA256 = ("eeacb38b", "bf2d0c1e")
"""First hash digits of the two published detectors (`*_COCO_V1`)."""
BATCH_NORM_EPS = 1e-5

_KINDS = ("weight", "bias")
RESNET_RULES = Rules(
    *((f"{theirs}.{kind}", f"head.{kind}") for theirs in ("fc", "head", "head.fc") for kind in _KINDS),
    ("stem.7.", "backbone.bn1."),
    ("stem.", "backbone.conv1."),
    ("", "backbone."),
)
_STAGES = {"layer1.0.conv1.weight", "layer4.0.conv1.weight"}
RESNET = CheckpointLayout(
    "torchvision ResNet",
    (
        {"conv1.weight", "bn1.weight", *_STAGES},
        {"conv1.0.weight", "bn1.weight", *_STAGES},
        {"stem.0.weight", "stem.7.weight", *_STAGES},
    ),
    RESNET_RULES.to_ours,
)


def to_resnet(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl ResNet, whose backbone has torchvision's names."""
    return Rules(("fc.", "head."), ("", "backbone.")).to_theirs(state)


_DETECTORS = Rules(
    ("backbone.body.", "backbone."),
    *(
        (f"backbone.fpn.{blocks}_blocks.#.{older_or_newer}", f"neck.{blocks}_blocks.#.0.")
        for blocks in ("inner", "layer")
        for older_or_newer in ("0.", "")
    ),
    ("backbone.fpn.", "neck."),
    ("rpn.head.conv.0.0.", "head.rpn.conv.0.0."),
    ("rpn.head.conv.", "head.rpn.conv.0.0."),
    ("rpn.head.", "head.rpn."),
    *((f"roi_heads.mask_head.mask_fcn{number + 1}.", f"head.mask_head.{number}.0.") for number in range(4)),
    ("roi_heads.", "head."),
    *(  # older: convolutions and ReLUs in one list
        (f"head.{part}_head.conv.{2 * number}.{kind}", f"head.{part}_head.conv.{number}.0.{kind}")
        for part in ("classification", "regression")
        for number in range(4)
        for kind in _KINDS
    ),
)


def _detector_to_ours(state: State) -> dict[str, Tensor]:
    """Mask R-CNN's background moves from the first class row to the last; its unused box and mask rows are dropped.
    RetinaNet has no background: its rows stay.
    """
    converted = _DETECTORS.to_ours(state)
    for name, value in converted.items():
        if name.startswith("head.box_predictor.cls_score."):
            converted[name] = torch.cat([value[1:], value[:1]])
        elif name.startswith("head.box_predictor.bbox_pred."):
            converted[name] = value[4:]
        elif name.startswith("head.mask_predictor.mask_fcn_logits."):
            converted[name] = value[1:]
    return converted


RETINANET = CheckpointLayout(
    "torchvision RetinaNet",
    ({"backbone.body.conv1.weight", "head.classification_head.cls_logits.weight"},),
    _detector_to_ours,
    # torchvision's `v2` has norms in the head; FCOS a centerness
    absent=("head.classification_head.conv.0.1.weight", "head.regression_head.bbox_ctrness.weight"),
)
MASK_RCNN = CheckpointLayout(  # torchvision's `v2` has no second linear layer in the box head, but convolutions
    "torchvision Mask R-CNN",
    (
        {
            "backbone.body.conv1.weight",
            "roi_heads.box_head.fc6.weight",
            "roi_heads.mask_predictor.mask_fcn_logits.weight",
        },
    ),
    _detector_to_ours,
)


def without_eps(state: State) -> dict[str, Tensor]:
    """Subtract pvtctl's batch-norm eps from the running variances.

    The two published files were trained when frozen batch norms had no eps; torchvision sets it to 0 for them alone.
    """
    return {key: v - BATCH_NORM_EPS if key.endswith("running_var") else v for key, v in state.items()}
