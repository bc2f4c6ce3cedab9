"""Parameter names of mmdetection's RetinaNet and Mask R-CNN (also the official PVT repository's), and pvtctl's.

Sources: the parameters of the models of mmdetection (3.3, whose names are those of 2.x), and for
mmdetection's own PVT its checkpoint converter (`pvt_convert`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

_RETINANET = (
    (r"bbox_head\.cls_convs\.(\d)\.conv\.", r"head.classification_head.conv.\1.0."),
    (r"bbox_head\.reg_convs\.(\d)\.conv\.", r"head.regression_head.conv.\1.0."),
    (r"bbox_head\.retina_cls\.", "head.classification_head.cls_logits."),
    (r"bbox_head\.retina_reg\.", "head.regression_head.bbox_reg."),
)
_MASK_RCNN = (
    (r"rpn_head\.rpn_conv\.", "head.rpn.conv.0.0."),
    (r"rpn_head\.rpn_cls\.", "head.rpn.cls_logits."),
    (r"rpn_head\.rpn_reg\.", "head.rpn.bbox_pred."),
    (r"roi_head\.bbox_head\.shared_fcs\.0\.", "head.box_head.fc6."),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.", "head.box_head.fc7."),
    (r"roi_head\.bbox_head\.fc_cls\.", "head.box_predictor.cls_score."),
    (r"roi_head\.bbox_head\.fc_reg\.", "head.box_predictor.bbox_pred."),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.", r"head.mask_head.\1.0."),
    (r"roi_head\.mask_head\.upsample\.", "head.mask_predictor.conv5_mask."),
    (r"roi_head\.mask_head\.conv_logits\.", "head.mask_predictor.mask_fcn_logits."),
)
_TO_OFFICIAL = (
    (r"head\.classification_head\.conv\.(\d)\.0\.", r"bbox_head.cls_convs.\1.conv."),
    (r"head\.regression_head\.conv\.(\d)\.0\.", r"bbox_head.reg_convs.\1.conv."),
    (r"head\.classification_head\.cls_logits\.", "bbox_head.retina_cls."),
    (r"head\.regression_head\.bbox_reg\.", "bbox_head.retina_reg."),
    (r"head\.rpn\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"head\.rpn\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"head\.rpn\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"head\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"head\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"head\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"head\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"head\.mask_head\.(\d)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
    (r"head\.mask_predictor\.conv5_mask\.", "roi_head.mask_head.upsample."),
    (r"head\.mask_predictor\.mask_fcn_logits\.", "roi_head.mask_head.conv_logits."),
)


def is_mmdet_retinanet(keys: set[str]) -> bool:
    """Whether this is mmdetection's RetinaNet with a plain FPN."""
    return {"bbox_head.retina_cls.weight", "neck.lateral_convs.0.conv.weight"} <= keys


def is_mmdet_mask_rcnn(keys: set[str]) -> bool:
    """Whether this is mmdetection's Mask R-CNN with two shared linear layers and a plain FPN."""
    wanted = ("bbox_head.fc_cls", "bbox_head.shared_fcs.1", "mask_head.conv_logits")
    return {*(f"roi_head.{part}.weight" for part in wanted), "neck.lateral_convs.0.conv.weight"} <= keys


def from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename neck and head of either to pvtctl's names. `backbone.*` and unknown names are kept."""
    laterals = sum(re.fullmatch(r"neck\.lateral_convs\.\d\.conv\.weight", key) is not None for key in state)
    return {_to_ours(key, laterals): value for key, value in state.items()}


def _to_ours(key: str, laterals: int) -> str:
    if found := re.fullmatch(r"neck\.(lateral|fpn)_convs\.(\d)\.conv\.(weight|bias)", key):
        kind, number, rest = found[1], int(found[2]), found[3]
        if kind == "lateral":
            return f"neck.inner_blocks.{number}.0.{rest}"
        if number < laterals:
            return f"neck.layer_blocks.{number}.0.{rest}"
        return f"neck.extra_blocks.p{6 + number - laterals}.{rest}"  # levels after the pyramid's own are P6 and P7
    return renamed(key, (*_RETINANET, *_MASK_RCNN))


def to_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_mmdet`, for the names of a pvtctl RetinaNet or Mask R-CNN."""
    laterals = sum(re.fullmatch(r"neck\.inner_blocks\.\d\.0\.weight", key) is not None for key in state)
    return {_from_ours(key, laterals): value for key, value in state.items()}


def _from_ours(key: str, laterals: int) -> str:
    if found := re.fullmatch(r"neck\.(inner|layer)_blocks\.(\d)\.0\.(weight|bias)", key):
        return f"neck.{'lateral' if found[1] == 'inner' else 'fpn'}_convs.{found[2]}.conv.{found[3]}"
    if found := re.fullmatch(r"neck\.extra_blocks\.p([67])\.(weight|bias)", key):
        return f"neck.fpn_convs.{laterals + int(found[1]) - 6}.conv.{found[2]}"
    return renamed(key, _TO_OFFICIAL)


def renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    """`key` with its beginning replaced by the first matching rule (pattern, replacement)."""
    for pattern, replacement in rules:
        if re.match(pattern, key):
            return re.sub(f"^{pattern}", replacement, key)
    return key


def is_mmdet_pvt(keys: set[str]) -> bool:
    """Whether this is mmdetection's own PVT (`PyramidVisionTransformer`, v1 or v2), names without `backbone.`."""
    attention = {f"layers.3.1.{block}.attn.attn.in_proj_weight" for block in (0, 1)}  # v1's block 0 is a position table
    return "layers.0.0.projection.weight" in keys and bool(attention & keys)


def from_mmdet_pvt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename mmdetection's own PVT to pvtctl's names: its query, key and value are one matrix, its MLPs 1x1
    convolutions, and its position tables are listed among the blocks.
    """
    shift = 1 if "layers.0.1.0.pos_embed" in state else 0
    second = 4 if any(key.endswith("ffn.layers.4.weight") for key in state) else 3  # v2 has a convolution between
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        found = re.fullmatch(r"layers\.([0-3])\.([012])\.(.+)", key)
        if found is None:
            converted[f"backbone.{key}"] = value
            continue
        stage, rest = f"backbone.stages.{found[1]}", found[3]
        match found[2]:
            case "0":
                converted[f"{stage}.patch_embed.{rest.replace('projection.', 'proj.')}"] = value
            case "2":
                converted[f"{stage}.norm.{rest}"] = value
            case _ if rest == "0.pos_embed":
                converted[f"{stage}.pos_embed"] = _with_class_slot(value) if found[1] == "3" else value
            case _:
                number, inner = rest.split(".", 1)
                converted |= _block(f"{stage}.blocks.{int(number) - shift}", inner, value, second)
    return converted


def _with_class_slot(table: Tensor) -> Tensor:
    """Add the class token's slot to v1's last table, which mmdetection leaves out."""
    square = table.ndim == 3 and math.isqrt(table.shape[1]) ** 2 == table.shape[1]
    return torch.cat([torch.zeros_like(table[:, :1]), table], dim=1) if square else table


def _block(block: str, inner: str, value: Tensor, second: int) -> dict[str, Tensor]:
    if found := re.fullmatch(r"attn\.attn\.in_proj_(weight|bias)", inner):
        width = value.shape[0] // 3
        return {f"{block}.attn.q.{found[1]}": value[:width], f"{block}.attn.kv.{found[1]}": value[width:]}
    names = {
        "attn.attn.out_proj": "attn.proj",
        "ffn.layers.0": "mlp.fc1",
        "ffn.layers.1": "mlp.dwconv",
        f"ffn.layers.{second}": "mlp.fc2",
    }
    part, kind = inner.rsplit(".", 1)
    part = names.get(part, part)
    linear = part in ("mlp.fc1", "mlp.fc2") and value.ndim == 4
    return {f"{block}.{part}.{kind}": value.flatten(1) if linear else value}
