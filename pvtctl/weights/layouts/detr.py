"""Parameter names of DETR: facebookresearch's (pvtctl's after `head.`) and mmdetection's (2.x, 3.x).

Sources: the parameters of the original models, by name and shape; mmdetection's DETRHead and its transformer layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pvtctl.weights.layouts.mmdet import renamed

DILATED_SHA256 = ("f0fb7ef5", "a2e86def")
"""First hash digits of the published DETR-DC5 files, whose names and shapes equal those of the plain models."""

_TOP = ("transformer.", "class_embed.", "bbox_embed.", "query_embed.", "input_proj.")
_MMDET = (
    (r"(?:bbox_head\.)?input_proj\.", "input_proj."),
    (r"neck\.convs\.0\.conv\.", "input_proj."),
    (r"bbox_head\.fc_cls\.", "class_embed."),
    (r"bbox_head\.reg_ffn\.layers\.0\.0\.", "bbox_embed.layers.0."),
    (r"bbox_head\.reg_ffn\.layers\.1\.", "bbox_embed.layers.1."),
    (r"bbox_head\.fc_reg\.", "bbox_embed.layers.2."),
    (r"(?:bbox_head\.)?query_embedding\.", "query_embed."),
)
_MMDET_LAYER = (
    (r"(?:attentions\.0|self_attn)\.attn\.", "self_attn."),
    (r"(?:attentions\.1|cross_attn)\.attn\.", "multihead_attn."),
    (r"(?:ffns\.0|ffn)\.layers\.0\.0\.", "linear1."),
    (r"(?:ffns\.0|ffn)\.layers\.1\.", "linear2."),
    (r"norms\.0\.", "norm1."),
    (r"norms\.1\.", "norm2."),
    (r"norms\.2\.", "norm3."),
)


def is_detr(keys: set[str]) -> bool:
    """Whether this is facebookresearch's DETR without a mask head."""
    wanted = ("transformer.decoder.layers.0.multihead_attn.in_proj_weight", "query_embed.weight", "class_embed.weight")
    return set(wanted) <= keys and not any(key.startswith("bbox_attention.") for key in keys)


def from_detr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename facebookresearch's DETR to pvtctl's names; the backbone keeps its own after `backbone.`."""
    return {_detr_name(key): value for key, value in state.items()}


def _detr_name(key: str) -> str:
    return f"head.{key}" if key.startswith(_TOP) else re.sub(r"^backbone\.0\.body\.", "backbone.", key)


def to_detr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_detr`."""
    return {
        key.removeprefix("head.") if key.startswith("head.") else re.sub(r"^backbone\.", "backbone.0.body.", key): value
        for key, value in state.items()
    }


def is_mmdet_detr(keys: set[str]) -> bool:
    """Whether this is mmdetection's plain DETR: the transformer is in the head in 2.x, next to it in 3.x."""
    decoder = ("bbox_head.transformer.decoder.layers.0.attentions.1.attn.in_proj_weight",)
    newer = ("decoder.layers.0.cross_attn.attn.in_proj_weight", "query_embedding.weight")
    head = {"bbox_head.fc_cls.weight", "bbox_head.reg_ffn.layers.0.0.weight"}
    return head <= keys and (set(decoder) <= keys or set(newer) <= keys)


def from_mmdet_detr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename mmdetection's DETR to pvtctl's names; `backbone.*` and unknown names are kept."""
    return {_mmdet_name(key): value for key, value in state.items()}


def _mmdet_name(key: str) -> str:
    if found := re.fullmatch(r"(?:bbox_head\.transformer\.)?(encoder|decoder)\.layers\.(\d+)\.(.+)", key):
        return f"head.transformer.{found[1]}.layers.{found[2]}.{renamed(found[3], _MMDET_LAYER)}"
    if found := re.fullmatch(r"(?:bbox_head\.transformer\.)?decoder\.post_norm\.(weight|bias)", key):
        return f"head.transformer.decoder.norm.{found[1]}"
    name = renamed(key, _MMDET)
    return f"head.{name}" if name.startswith(_TOP) else key
