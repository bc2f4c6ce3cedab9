"""Parameter names of DETR: facebookresearch's (pvtctl's after `head.`), mmdetection's (2.x, 3.x) and transformers'.

Sources: the parameters of the original models, by name and shape; mmdetection's DETRHead and its transformer layers; the
state dict of `DetrForObjectDetection` as transformers 5 saves it.
"""

from __future__ import annotations

from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State, join_rows, split_rows
from pvtctl.weights.layouts.transformers import to_transformers_pvt_v2
from pvtctl.weights.layouts.transformers_resnet import resnet_names

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

_BODY = "model.backbone.conv_encoder.model."
_TRANSFORMERS = Rules(
    *(
        (f"model.{side}.layers.#.{theirs}.", f"head.transformer.{side}.layers.#.{ours}.")
        for side, last in (("encoder", "norm2"), ("decoder", "norm3"))
        for theirs, ours in (
            ("self_attn", "self_attn"),
            ("encoder_attn", "multihead_attn"),
            ("self_attn_layer_norm", "norm1"),
            ("final_layer_norm", last),
            ("encoder_attn_layer_norm", "norm2"),
            ("fc1", "linear1"),
            ("fc2", "linear2"),
        )
    ),
    ("model.decoder.layernorm.", "head.transformer.decoder.norm."),
    ("model.query_position_embeddings.", "head.query_embed."),
    ("model.input_projection.", "head.input_proj."),
    ("class_labels_classifier.", "head.class_embed."),
    ("bbox_predictor.", "head.bbox_embed."),
    *resnet_names(_BODY),
    (_BODY, "backbone."),  # timm's ResNets, which have torchvision's names, and PVTs
)
_THREE, _JOINED = ("q_proj", "k_proj", "v_proj"), "in_proj"


def _transformers_to_ours(state: State) -> dict[str, Tensor]:
    """A backbone of transformers other than its ResNet keeps its own names after `backbone.`."""
    joined = join_rows(_TRANSFORMERS.to_ours(state), _THREE, _JOINED)
    return {key.replace(f".{_JOINED}.", f".{_JOINED}_"): value for key, value in joined.items()}


def to_transformers_detr(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl DETR on a ResNet or a PVT v2 for `DetrForObjectDetection`, whose batch norms are frozen and count no
    batches.
    """
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    whole = {key.replace(f".{_JOINED}_", f".{_JOINED}."): value for key, value in kept.items()}
    if "backbone.conv1.weight" in state:
        return _TRANSFORMERS.to_theirs(split_rows(whole, _THREE, _JOINED))
    body = to_transformers_pvt_v2({key: value for key, value in whole.items() if key.startswith("backbone.")})
    rest = {key: value for key, value in whole.items() if not key.startswith("backbone.")}
    named = {key.replace("pvt_v2.", _BODY, 1): value for key, value in body.items()}
    return named | _TRANSFORMERS.to_theirs(split_rows(rest, _THREE, _JOINED))


_RELATIVES = (
    "model.encoder.layernorm.",  # Table Transformer, whose norms come first
    "model.decoder.query_scale.",  # Conditional DETR
    "model.decoder.ref_point_head.",
    "model.position_embedding",  # learned
)
TRANSFORMERS = CheckpointLayout(
    "transformers DETR",
    ({"class_labels_classifier.weight", "model.query_position_embeddings.weight", "model.input_projection.weight"},),
    _transformers_to_ours,
    absent=_RELATIVES,
)
