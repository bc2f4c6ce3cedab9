"""Parameter names of torchvision's first RetinaNet and Mask R-CNN (`*_resnet50_fpn`), and pvtctl's.

Source: torchvision.models.detection; the published files still have the names of torchvision before 0.13, which its
modules rename when loading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from pvtctl.weights.layouts.mmdet import renamed

PUBLISHED_SHA256 = ("eeacb38b", "bf2d0c1e")
"""First hash digits of the two published files (`*_COCO_V1`)."""
BATCH_NORM_EPS = 1e-5

_RULES = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(?=weight|bias)", r"neck.\1_blocks.\2.0."),
    (r"backbone\.fpn\.", "neck."),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(?=weight|bias)", "head.rpn.conv.0.0."),
    (r"rpn\.head\.", "head.rpn."),
    (r"roi_heads\.", "head."),
)


def is_torchvision_retinanet(keys: set[str]) -> bool:
    """Whether this is RetinaNet without norms in the head (torchvision's `v2` has them)."""
    wanted = {"backbone.body.conv1.weight", "head.classification_head.cls_logits.weight"}
    return wanted <= keys and "head.classification_head.conv.0.1.weight" not in keys and not _is_fcos(keys)


def _is_fcos(keys: set[str]) -> bool:
    return "head.regression_head.bbox_ctrness.weight" in keys


def is_torchvision_mask_rcnn(keys: set[str]) -> bool:
    """Whether this is Mask R-CNN with two linear layers and no norms in the box head (`v2` has four convolutions)."""
    wanted = {"backbone.body.conv1.weight", "roi_heads.box_head.fc6.weight"}
    return wanted <= keys and "roi_heads.mask_predictor.mask_fcn_logits.weight" in keys


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to pvtctl's names. Mask R-CNN's background moves from the first class row to the last; its unused box and mask
    rows are dropped. RetinaNet has no background: its rows stay.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _to_ours(key)
        if name.startswith("head.box_predictor.cls_score."):
            value = torch.cat([value[1:], value[:1]])
        elif name.startswith("head.box_predictor.bbox_pred."):
            value = value[4:]
        elif name.startswith("head.mask_predictor.mask_fcn_logits."):
            value = value[1:]
        converted[name] = value
    return converted


def _to_ours(key: str) -> str:
    if found := re.fullmatch(r"(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)", key):
        return f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}"  # older: convolutions and ReLUs in one list
    if found := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", key):
        return f"head.mask_head.{int(found[1]) - 1}.0.{found[2]}"
    return renamed(key, _RULES)


def without_eps(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Subtract pvtctl's batch-norm eps from the running variances.

    The two published files were trained when frozen batch norms had no eps; torchvision sets it to 0 for them alone.
    """
    return {key: v - BATCH_NORM_EPS if key.endswith("running_var") else v for key, v in state.items()}
