"""Parameter names of mmdetection's RetinaNet and Mask R-CNN (also the official PVT repository's) and of its own PVT.

Sources: the parameters of the models of mmdetection (3.3, whose names are those of 2.x), and for
mmdetection's own PVT its checkpoint converter (`pvt_convert`).
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

NECK = (
    ("neck.lateral_convs.#.conv.", "neck.inner_blocks.#.0."),
    ("neck.fpn_convs.#.conv.", "neck.layer_blocks.#.0."),
)
_HEADS = (
    ("bbox_head.cls_convs.#.conv.", "head.classification_head.conv.#.0."),
    ("bbox_head.reg_convs.#.conv.", "head.regression_head.conv.#.0."),
    ("bbox_head.retina_cls.", "head.classification_head.cls_logits."),
    ("bbox_head.retina_reg.", "head.regression_head.bbox_reg."),
    ("rpn_head.rpn_conv.", "head.rpn.conv.0.0."),
    ("rpn_head.rpn_cls.", "head.rpn.cls_logits."),
    ("rpn_head.rpn_reg.", "head.rpn.bbox_pred."),
    ("roi_head.bbox_head.shared_fcs.0.", "head.box_head.fc6."),
    ("roi_head.bbox_head.shared_fcs.1.", "head.box_head.fc7."),
    ("roi_head.bbox_head.fc_cls.", "head.box_predictor.cls_score."),
    ("roi_head.bbox_head.fc_reg.", "head.box_predictor.bbox_pred."),
    ("roi_head.mask_head.convs.#.conv.", "head.mask_head.#.0."),
    ("roi_head.mask_head.upsample.", "head.mask_predictor.conv5_mask."),
    ("roi_head.mask_head.conv_logits.", "head.mask_predictor.mask_fcn_logits."),
)


def _rules(levels: int) -> Rules:
    """`levels`: of the backbone in the pyramid; their outputs and P6 and P7 are one list in mmdetection."""
    extra = ((f"neck.fpn_convs.{levels + at}.conv.", f"neck.extra_blocks.p{6 + at}.") for at in range(2))
    return Rules(*extra, *NECK, *_HEADS)


def _to_ours(state: State) -> dict[str, Tensor]:
    return _rules(sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d\.conv\.weight", key)) for key in state)).to_ours(
        state
    )


def to_mmdet(state: State) -> dict[str, Tensor]:
    """Rename neck and head of a pvtctl RetinaNet or Mask R-CNN."""
    return _rules(sum(bool(re.fullmatch(r"neck\.inner_blocks\.\d\.0\.weight", key)) for key in state)).to_theirs(state)


RETINANET = CheckpointLayout(
    "mmdetection RetinaNet", ({"bbox_head.retina_cls.weight", "neck.lateral_convs.0.conv.weight"},), _to_ours
)
MASK_RCNN = CheckpointLayout(  # with two shared linear layers
    "mmdetection Mask R-CNN",
    (
        {
            "roi_head.bbox_head.fc_cls.weight",
            "roi_head.bbox_head.shared_fcs.1.weight",
            "roi_head.mask_head.conv_logits.weight",
            "neck.lateral_convs.0.conv.weight",
        },
    ),
    _to_ours,
)


def _pvt_to_ours(state: State) -> dict[str, Tensor]:
    """Here query, key and value are one matrix, the MLPs are 1x1 convolutions, and v1's position tables, without a slot
    for the class token, are the first of the blocks.
    """
    v1 = "layers.0.1.0.pos_embed" in state
    second = 4 if any(key.endswith("ffn.layers.4.weight") for key in state) else 3  # v2 has a convolution between
    block, ours = "layers.#.1.#.", "backbone.stages.#.blocks.#."
    rules = Rules(
        ("layers.#.0.projection.", "backbone.stages.#.patch_embed.proj."),
        ("layers.#.0.", "backbone.stages.#.patch_embed."),
        ("layers.#.2.", "backbone.stages.#.norm."),
        ("layers.#.1.0.pos_embed", "backbone.stages.#.pos_embed"),
        (f"{block}attn.attn.in_proj_", f"{ours}attn.in_proj_"),
        (f"{block}attn.attn.out_proj.", f"{ours}attn.proj."),
        (f"{block}ffn.layers.0.", f"{ours}mlp.fc1."),
        (f"{block}ffn.layers.1.", f"{ours}mlp.dwconv."),
        (f"{block}ffn.layers.{second}.", f"{ours}mlp.fc2."),
        (block, ours),
        ("", "backbone."),
    )
    converted: dict[str, Tensor] = {}
    for name, value in rules.to_ours(state).items():
        if v1:
            name = re.sub(r"\.blocks\.(\d+)\.", lambda found: f".blocks.{int(found[1]) - 1}.", name)
        if ".attn.in_proj_" in name:
            width = value.shape[0] // 3
            converted[name.replace("in_proj_", "q.")] = value[:width]
            converted[name.replace("in_proj_", "kv.")] = value[width:]
        elif (
            name == "backbone.stages.3.pos_embed"
            and value.ndim == 3
            and math.isqrt(value.shape[1]) ** 2 == value.shape[1]
        ):
            converted[name] = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
        elif ".mlp.fc" in name and value.ndim == 4:
            converted[name] = value.flatten(1)
        else:
            converted[name] = value
    return converted


_ATTENTION = "layers.3.1.{}.attn.attn.in_proj_weight"  # v1's block 0 is a position table
PVT = CheckpointLayout(
    "mmdetection PVT",
    tuple({"layers.0.0.projection.weight", _ATTENTION.format(block)} for block in (0, 1)),
    _pvt_to_ours,
)
