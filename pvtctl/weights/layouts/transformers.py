"""Parameter names of Hugging Face transformers' Pvt, PvtV2 and DPT (with a ViT or the hybrid).

Sources: the state dicts of `PvtForImageClassification`, `PvtV2ForImageClassification`, `DPTForDepthEstimation` and
`DPTForSemanticSegmentation` (transformers 5), and their docstrings for the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State
from pvtctl.weights.layouts.dpt import CLASS_OUTPUT, DEPTH_OUTPUT, NORMED_UNIT, PLAIN_UNIT

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


def _pvt_to_ours(state: State) -> dict[str, Tensor]:
    return _joined(_PVT_RULES.to_ours(_prefixed(state, "pvt.")))


def _prefixed(state: State, prefix: str) -> dict[str, Tensor]:
    """Bare models are saved without `prefix`."""
    return {f"{prefix}{key}" if key.startswith("encoder.") else key: value for key, value in state.items()}


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack `attn.k` over `attn.v` as `attn.kv`: the key-value matrix holds the keys' rows first.

    Tensors without a partner, or with one of another shape, keep their names, for the report.
    """
    joined: dict[str, Tensor] = {}
    for key, value in state.items():
        half = ".attn.k." if ".attn.k." in key else ".attn.v."
        partner = state.get(key.replace(half, ".attn.v." if half == ".attn.k." else ".attn.k."))
        if half not in key or partner is None or partner.shape != value.shape:
            joined[key] = value
        elif half == ".attn.k.":
            joined[key.replace(half, ".attn.kv.")] = torch.cat([value, partner])
    return joined


def to_transformers_pvt(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl PVT for `PvtForImageClassification`: `pvt.*` and `classifier.*`."""
    return _PVT_RULES.to_theirs(_split(state))


def to_transformers_pvt_v2(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl PVTv2 for `PvtV2ForImageClassification`: `pvt_v2.*` and `classifier.*`."""
    return _PVT_V2_RULES.to_theirs(_split(state))


def _split(state: State) -> dict[str, Tensor]:
    """Split each block's `kv` into keys and values."""
    apart: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".attn.kv." in key:
            keys, values = value.chunk(2)
            apart |= {key.replace(".kv.", ".k."): keys, key.replace(".kv.", ".v."): values}
        else:
            apart[key] = value
    return apart


def _with_or_without(prefix: str, name: str) -> tuple[set[str], ...]:
    return {f"{prefix}{name}"}, {name}


PVT = CheckpointLayout(
    "transformers Pvt", _with_or_without("pvt.", "encoder.patch_embeddings.0.projection.weight"), _pvt_to_ours
)
PVT_V2 = CheckpointLayout(
    "transformers PvtV2",
    _with_or_without("pvt_v2.", "encoder.layers.0.patch_embedding.proj.weight"),
    lambda state: _joined(_PVT_V2_RULES.to_ours(_prefixed(state, "pvt_v2."))),
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
    *(
        (f"dpt.encoder.layer.#.{theirs}.", f"backbone.blocks.#.{ours}.")
        for theirs, ours in (
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.attention", "attn"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
        )
    ),
    ("dpt.layernorm.", "backbone.norm."),
    ("neck.reassemble_stage.layers.#.projection.", "head.reassemble.#.project."),
    ("neck.reassemble_stage.layers.#.resize.", "head.reassemble.#.resample."),
    ("neck.reassemble_stage.readout_projects.#.0.", "head.reassemble.#.read."),
    ("neck.convs.", "head.decoder.narrow."),
)
_UNUSED = ("dpt.pooler.", "neck.fusion_stage.layers.0.residual_layer1.")


def _dpt_to_ours(state: State) -> dict[str, Tensor]:
    """Each block's query, key and value are joined into `qkv`.

    Unused parameters are left out: the pooler, and the first residual unit of the coarsest fusion.
    """
    unit = NORMED_UNIT if any(".batch_norm1." in key for key in state) else PLAIN_UNIT
    outputs = CLASS_OUTPUT if "head.head.1.running_mean" in state else DEPTH_OUTPUT
    fusion = (
        ("projection.", "mix."),
        *(
            (f"{theirs_unit}.{theirs.replace('conv', 'convolution').replace('bn', 'batch_norm')}", f"{our_unit}.{ours}")
            for theirs_unit, our_unit in (("residual_layer1", "skip"), ("residual_layer2", "unit"))
            for theirs, ours in unit
        ),
    )
    rules = Rules(
        *_DPT_RULES,
        *(  # theirs are counted from the coarsest, ours from the finest
            (f"neck.fusion_stage.layers.{3 - number}.{theirs}", f"head.decoder.fusions.{number}.{ours}")
            for number in range(4)
            for theirs, ours in fusion
        ),
        *((f"head.head.{theirs}", f"head.output.{ours}") for theirs, ours in outputs),
        *((f"auxiliary_head.head.{theirs}", f"head.auxiliary.{ours}") for theirs, ours in CLASS_OUTPUT),
    )
    renamed = rules.to_ours({key: value for key, value in state.items() if not key.startswith(_UNUSED)})
    converted: dict[str, Tensor] = {}
    for name, value in renamed.items():
        if ".attn.query." in name:
            three = [renamed[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            converted[name.replace(".query.", ".qkv.")] = torch.cat(three)
        elif not any(part in name for part in (".attn.key.", ".attn.value.")):
            converted[name] = value
    return converted


_DPT_MARKS = {"dpt.embeddings.cls_token", "neck.reassemble_stage.layers.3.projection.weight"}
DPT = CheckpointLayout(
    "transformers DPT", (_DPT_MARKS,), _dpt_to_ours
)  # over another backbone it has no `dpt.embeddings`


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """pvtctl metadata from a model's `config.json`: readout, taps, classes. Raises UsageError for an activation that shows
    in no parameter and is not DPT's.
    """
    if config.get("model_type") != "dpt":
        return {}
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
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels and not all(str(name).startswith("LABEL_") for name in labels.values()):
        found["class_names"] = [str(labels[key]).strip() for key in sorted(labels, key=int)]
    return found
