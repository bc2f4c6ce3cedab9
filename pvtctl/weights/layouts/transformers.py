"""Parameter names of Hugging Face transformers' Pvt, PvtV2, ViT and DeiT, and DPT (with a ViT or the hybrid).

Sources: the state dicts of `PvtForImageClassification`, `PvtV2ForImageClassification`, `ViTForImageClassification`,
`DeiTForImageClassificationWithTeacher`, `DPTForDepthEstimation` and `DPTForSemanticSegmentation` as transformers 5 saves
them, which are the names of earlier versions too, and their docstrings for the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State, join_rows, split_rows
from pvtctl.weights.layouts.dpt import CLASS_OUTPUT, DEPTH_OUTPUT, NORMED_UNIT, PLAIN_UNIT
from pvtctl.weights.layouts.timm import VIT as TIMM_VIT
from pvtctl.weights.layouts.timm import to_timm_vit
from pvtctl.weights.layouts.transformers_resnet import check_resnet

_OUR_BLOCK = "backbone.stages.#.blocks.#."
_NORMS_AND_MLP = (
    ("layer_norm_1.", "norm1."),
    ("layer_norm_2.", "norm2."),
    ("mlp.dense1.", "mlp.fc1."),
    ("mlp.dense2.", "mlp.fc2."),
)
_PVT_BLOCK = (
    ("attention.self.sequence_reduction.", "attn.sr."),
    ("attention.self.layer_norm.", "attn.norm."),
    ("attention.self.query.", "attn.q."),
    ("attention.self.key.", "attn.k."),
    ("attention.self.value.", "attn.v."),
    ("attention.output.dense.", "attn.proj."),
    *_NORMS_AND_MLP,
)
_PVT_V2_BLOCK = (
    ("attention.spatial_reduction.", "attn.sr."),
    ("attention.layer_norm.", "attn.norm."),
    ("attention.query.", "attn.q."),
    ("attention.key.", "attn.k."),
    ("attention.value.", "attn.v."),
    ("attention.proj.", "attn.proj."),
    ("mlp.dwconv.dwconv.", "mlp.dwconv."),
    *_NORMS_AND_MLP,
)
_PVT_RULES = Rules(
    ("classifier.", "head."),
    ("pvt.encoder.patch_embeddings.3.cls_token", "backbone.class_token"),
    ("pvt.encoder.patch_embeddings.#.position_embeddings", "backbone.stages.#.pos_embed"),
    ("pvt.encoder.patch_embeddings.#.projection.", "backbone.stages.#.patch_embed.proj."),
    ("pvt.encoder.patch_embeddings.#.layer_norm.", "backbone.stages.#.patch_embed.norm."),
    *((f"pvt.encoder.block.#.#.{theirs}", f"{_OUR_BLOCK}{ours}") for theirs, ours in _PVT_BLOCK),
    ("pvt.encoder.layer_norm.", "backbone.norm."),
    ("pvt.encoder.", "backbone."),
    ("pvt.", "backbone."),
    ("", "backbone."),
)
_PVT_V2_STAGE = "pvt_v2.encoder.layers.#."
_PVT_V2_RULES = Rules(
    ("classifier.", "head."),
    (f"{_PVT_V2_STAGE}patch_embedding.layer_norm.", "backbone.stages.#.patch_embed.norm."),
    (f"{_PVT_V2_STAGE}patch_embedding.", "backbone.stages.#.patch_embed."),
    *((f"{_PVT_V2_STAGE}blocks.#.{theirs}", f"{_OUR_BLOCK}{ours}") for theirs, ours in _PVT_V2_BLOCK),
    (f"{_PVT_V2_STAGE}layer_norm.", "backbone.stages.#.norm."),
    ("pvt_v2.encoder.", "backbone."),
    ("pvt_v2.", "backbone."),
    ("", "backbone."),
)


_KEYS_VALUES, _KV = ("attn.k", "attn.v"), "attn.kv"
"""The key-value matrix holds the keys' rows first."""


def _pvt_to_ours(state: State) -> dict[str, Tensor]:
    return join_rows(_PVT_RULES.to_ours(_prefixed(state, "pvt.")), _KEYS_VALUES, _KV)


def _pvt_v2_to_ours(state: State) -> dict[str, Tensor]:
    return join_rows(_PVT_V2_RULES.to_ours(_prefixed(state, "pvt_v2.")), _KEYS_VALUES, _KV)


def _prefixed(state: State, prefix: str) -> dict[str, Tensor]:
    """Bare models are saved without `prefix`."""
    return {f"{prefix}{key}" if key.startswith("encoder.") else key: value for key, value in state.items()}


def to_transformers_pvt(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl PVT for `PvtForImageClassification`: `pvt.*` and `classifier.*`."""
    return _PVT_RULES.to_theirs(split_rows(state, _KEYS_VALUES, _KV))


def to_transformers_pvt_v2(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl PVTv2 for `PvtV2ForImageClassification`: `pvt_v2.*` and `classifier.*`."""
    return _PVT_V2_RULES.to_theirs(split_rows(state, _KEYS_VALUES, _KV))


def _with_or_without(prefix: str, name: str) -> tuple[set[str], ...]:
    return {f"{prefix}{name}"}, {name}


PVT = CheckpointLayout(
    "transformers Pvt", _with_or_without("pvt.", "encoder.patch_embeddings.0.projection.weight"), _pvt_to_ours
)
PVT_V2 = CheckpointLayout(
    "transformers PvtV2",
    _with_or_without("pvt_v2.", "encoder.layers.0.patch_embedding.proj.weight"),
    _pvt_v2_to_ours,
)

_THREE, _QKV = ("attn.query", "attn.key", "attn.value"), "attn.qkv"
_VIT_BLOCK = (
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("attention.output.dense.", "attn.proj."),
    ("attention.attention.", "attn."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def _vit_rules(body: str) -> Rules:
    """Between the names of a ViT (`body` "vit") or DeiT ("deit") and timm's, which know distilled DeiTs' two classifiers."""
    return Rules(
        (f"{body}.embeddings.cls_token", "cls_token"),
        (f"{body}.embeddings.distillation_token", "dist_token"),
        (f"{body}.embeddings.position_embeddings", "pos_embed"),
        (f"{body}.embeddings.patch_embeddings.projection.", "patch_embed.proj."),
        *((f"{body}.encoder.layer.#.{theirs}", f"blocks.#.{ours}") for theirs, ours in _VIT_BLOCK),
        (f"{body}.layernorm.", "norm."),
        ("cls_classifier." if body == "deit" else "classifier.", "head."),
        ("distillation_classifier.", "head_dist."),
        ("classifier.", "head."),
    )


def _vit_to_ours(state: State) -> dict[str, Tensor]:
    body = "deit" if any(key.startswith("deit.") for key in state) else "vit"
    used = {key: value for key, value in state.items() if not key.startswith(f"{body}.pooler.")}
    return TIMM_VIT.to_ours(join_rows(_vit_rules(body).to_ours(used), _THREE, _QKV))


def to_transformers_vit(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl ViT for `ViTForImageClassification`, a distilled one for `DeiTForImageClassificationWithTeacher`,
    whose two classifiers get the same bias, the mean of the two.
    """
    body = "deit" if "backbone.distillation_token" in state else "vit"
    return _vit_rules(body).to_theirs(split_rows(to_timm_vit(state), _THREE, _QKV))


VIT = CheckpointLayout(
    "transformers ViT",
    tuple(
        {f"{body}.embeddings.cls_token", f"{body}.encoder.layer.0.attention.attention.query.weight"}
        for body in ("vit", "deit")
    ),
    _vit_to_ours,
)

_BIT = "dpt.embeddings.backbone.bit."
_BIT_STAGE, _HYBRID_STAGE = f"{_BIT}encoder.stages.#.layers.", "backbone.patch_embed.stages.#."
_DPT_RULES = (
    ("dpt.embeddings.cls_token", "backbone.class_token"),
    ("dpt.embeddings.position_embeddings", "backbone.pos_embed"),
    ("dpt.embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
    ("dpt.embeddings.projection.", "backbone.patch_embed.proj."),
    (f"{_BIT}embedder.convolution.", "backbone.patch_embed.stem."),
    (f"{_BIT}embedder.norm.", "backbone.patch_embed.stem_norm."),
    (f"{_BIT_STAGE}#.downsample.conv.", f"{_HYBRID_STAGE}#.shortcut.0."),
    (f"{_BIT_STAGE}#.downsample.norm.", f"{_HYBRID_STAGE}#.shortcut.1."),
    (_BIT_STAGE, _HYBRID_STAGE),
    *((f"dpt.encoder.layer.#.{theirs}", f"backbone.blocks.#.{ours}") for theirs, ours in _VIT_BLOCK),
    ("dpt.layernorm.", "backbone.norm."),
    ("neck.reassemble_stage.layers.#.projection.", "head.reassemble.#.project."),
    ("neck.reassemble_stage.layers.#.resize.", "head.reassemble.#.resample."),
    ("neck.reassemble_stage.readout_projects.#.0.", "head.reassemble.#.read."),
    ("neck.convs.", "head.decoder.narrow."),
)
_NAMED = ("dpt", "detr", "pvt", "pvt_v2", "vit", "deit", "resnet")
"""`model_type` of models whose class names are read."""
OWN_KEY = "pvtctl"
"""Of a folder's `config.json`: what transformers' models have no words for."""
_UNUSED = ("dpt.pooler.", "neck.fusion_stage.layers.0.residual_layer1.")


def _dpt_rules(*, norm: bool, classes: bool) -> Rules:
    """`norm`: with batch norms in the fusions, `classes`: for segmentation."""
    fusion = (
        ("projection.", "mix."),
        *(
            (f"{theirs_unit}.{theirs.replace('conv', 'convolution').replace('bn', 'batch_norm')}", f"{our_unit}.{ours}")
            for theirs_unit, our_unit in (("residual_layer1", "skip"), ("residual_layer2", "unit"))
            for theirs, ours in (NORMED_UNIT if norm else PLAIN_UNIT)
        ),
    )
    return Rules(
        *_DPT_RULES,
        *(  # theirs are counted from the coarsest, ours from the finest
            (f"neck.fusion_stage.layers.{3 - number}.{theirs}", f"head.decoder.fusions.{number}.{ours}")
            for number in range(4)
            for theirs, ours in fusion
        ),
        *(
            (f"head.head.{theirs}", f"head.output.{ours}")
            for theirs, ours in (CLASS_OUTPUT if classes else DEPTH_OUTPUT)
        ),
        *((f"auxiliary_head.head.{theirs}", f"head.auxiliary.{ours}") for theirs, ours in CLASS_OUTPUT),
    )


def _dpt_to_ours(state: State) -> dict[str, Tensor]:
    """Unused parameters are left out: the pooler, and the first residual unit of the coarsest fusion."""
    norm, classes = any(".batch_norm1." in key for key in state), "head.head.1.running_mean" in state
    used = {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    return join_rows(_dpt_rules(norm=norm, classes=classes).to_ours(used), _THREE, _QKV)


def to_transformers_dpt(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl DPT on a ViT or hybrid for `DPTForDepthEstimation` or `DPTForSemanticSegmentation`, with initial values
    for what these have besides and never use: a last norm, and the first residual unit of the coarsest fusion.
    """
    classes = "head.output.first.bn.weight" in state
    theirs = _dpt_rules(norm=classes, classes=classes).to_theirs(split_rows(state, _THREE, _QKV))
    if "backbone.patch_embed.stem.weight" in state:
        patches = "dpt.embeddings.patch_embeddings."
        theirs = {key.replace(patches, "dpt.embeddings."): value for key, value in theirs.items()}
    width = state["backbone.class_token"].shape[-1]
    norm = {"dpt.layernorm.weight": torch.ones(width), "dpt.layernorm.bias": torch.zeros(width)}
    return norm | with_unused_unit(theirs)


def with_unused_unit(state: State) -> dict[str, Tensor]:
    """`state` (transformers' names) with the coarsest fusion's first residual unit, of the second's shapes and without effect
    on any output: zeros, and variances of 1.
    """
    first, second = (f"neck.fusion_stage.layers.0.residual_layer{number}." for number in (1, 2))
    unused = {key.replace(second, first): value for key, value in state.items() if key.startswith(second)}
    ones = {key for key in unused if key.endswith("running_var")}
    return dict(state) | {
        key: torch.ones_like(value) if key in ones else torch.zeros_like(value) for key, value in unused.items()
    }


_DPT_MARKS = {"dpt.embeddings.cls_token", "neck.reassemble_stage.layers.3.projection.weight"}
DPT = CheckpointLayout(
    "transformers DPT", (_DPT_MARKS,), _dpt_to_ours
)  # over another backbone it has no `dpt.embeddings`


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """pvtctl metadata from a model's `config.json`: class names, DPT's readout and taps, DETR's dilation, and the scale and shift of
    metric depth, which only folders of `pvtctl export` state. Raises UsageError for activations and strides that show in no
    parameter and are not pvtctl's.
    """
    kind = config.get("model_type")
    for each in (config, config.get("backbone_config")):
        if isinstance(each, dict) and each.get("model_type") == "resnet":
            check_resnet(each)
    found: dict[str, Any] = {}
    labels = config.get("id2label")
    if kind in _NAMED and isinstance(labels, dict) and labels:
        names = [str(labels[key]).strip() for key in sorted(labels, key=int)]
        unused = kind == "detr" and len(set(names)) < len(names)  # COCO's unused ids are all "N/A"
        if not unused and not all(name.startswith("LABEL_") for name in names):
            found["class_names"] = names
    if kind == "detr" and config.get("dilation"):
        found["style"] = "dilated"  # in no name or shape
    return found | (_stated_of_dpt(config) if kind == "dpt" else {})


def _stated_of_dpt(config: Mapping[str, Any]) -> dict[str, Any]:
    if (activation := config.get("hidden_act", "gelu")) != "gelu":
        raise UsageError(
            f"config.json: a DPT whose ViT has {activation!r} in place of GELU", "pvtctl builds it with GELU"
        )
    options: dict[str, Any] = {"readout": config.get("readout_type", "project")}
    blocks = config.get("backbone_out_indices")
    if isinstance(blocks, list) and len(blocks) == 4:
        numbers = [int(block) + 1 for block in blocks]
        options["taps"] = ["R0", "R1", *numbers[2:]] if config.get("is_hybrid") else numbers
    found: dict[str, Any] = {"head": "dpt", "head_options": options}
    own = config.get(OWN_KEY)
    if isinstance(own, dict) and own.get("scale_shift") is not None:
        found["scale_shift"] = own["scale_shift"]
    return found
