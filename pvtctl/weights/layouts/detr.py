"""Parameter names of DETR: facebookresearch's (pvtctl's after `head.`) and mmdetection's (2.x, 3.x).

Sources: the parameters of the original models, by name and shape; mmdetection's DETRHead and its transformer layers.
"""

from __future__ import annotations

from pvtctl.weights.layouts.base import CheckpointLayout, Rules

DILATED_SHA256 = ("f0fb7ef5", "a2e86def")
"""First hash digits of the published DETR-DC5 files, whose names and shapes equal those of the plain models."""

_PARTS = ("transformer.", "class_embed.", "bbox_embed.", "query_embed.", "input_proj.")
RULES = Rules(("backbone.0.body.", "backbone."), *((part, f"head.{part}") for part in _PARTS))
FACEBOOK = CheckpointLayout(
    "facebookresearch DETR",
    ({"transformer.decoder.layers.0.multihead_attn.in_proj_weight", "query_embed.weight", "class_embed.weight"},),
    RULES.to_ours,
    absent=("bbox_attention.",),  # a mask head
)

# The transformer is in the head in 2.x, next to it in 3.x; the same parts of a layer in both, and pvtctl's:
_LAYER = (
    ("attentions.0.attn.", "self_attn.attn.", "self_attn."),
    ("attentions.1.attn.", "cross_attn.attn.", "multihead_attn."),
    ("ffns.0.layers.0.0.", "ffn.layers.0.0.", "linear1."),
    ("ffns.0.layers.1.", "ffn.layers.1.", "linear2."),
    *((f"norms.{number}.", f"norms.{number}.", f"norm{number + 1}.") for number in range(3)),
)
_MMDET = Rules(
    *(
        (f"{place}{side}.layers.#.{theirs}", f"head.transformer.{side}.layers.#.{ours}")
        for side in ("encoder", "decoder")
        for older, newer, ours in _LAYER
        for place, theirs in (("bbox_head.transformer.", older), ("", newer))
    ),
    ("bbox_head.transformer.decoder.post_norm.", "head.transformer.decoder.norm."),
    ("decoder.post_norm.", "head.transformer.decoder.norm."),
    ("bbox_head.input_proj.", "head.input_proj."),
    ("neck.convs.0.conv.", "head.input_proj."),
    ("bbox_head.fc_cls.", "head.class_embed."),
    ("bbox_head.reg_ffn.layers.0.0.", "head.bbox_embed.layers.0."),
    ("bbox_head.reg_ffn.layers.1.", "head.bbox_embed.layers.1."),
    ("bbox_head.fc_reg.", "head.bbox_embed.layers.2."),
    ("bbox_head.query_embedding.", "head.query_embed."),
    ("query_embedding.", "head.query_embed."),
)
_HEAD = {"bbox_head.fc_cls.weight", "bbox_head.reg_ffn.layers.0.0.weight"}
MMDETECTION = CheckpointLayout(
    "mmdetection DETR",
    (
        {*_HEAD, "bbox_head.transformer.decoder.layers.0.attentions.1.attn.in_proj_weight"},
        {*_HEAD, "decoder.layers.0.cross_attn.attn.in_proj_weight", "query_embedding.weight"},
    ),
    _MMDET.to_ours,
)
