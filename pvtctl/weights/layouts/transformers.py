"""Parameter names of Hugging Face transformers' Pvt and PvtV2, and pvtctl's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Inside a block; query, key and value are handled separately, because key and value are one matrix here.
_V1_BLOCK = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.sequence_reduction": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.k",
    "attention.self.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}
_V2_BLOCK = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.spatial_reduction": "attn.sr",
    "attention.layer_norm": "attn.norm",
    "attention.query": "attn.q",
    "attention.key": "attn.k",
    "attention.value": "attn.v",
    "attention.proj": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
    "mlp.dwconv.dwconv": "mlp.dwconv",
}


def is_transformers_pvt(keys: set[str]) -> bool:
    """Whether this is transformers' Pvt (v1), with or without its `pvt.` prefix."""
    return any(key.endswith("encoder.patch_embeddings.0.projection.weight") for key in keys)


def is_transformers_pvt_v2(keys: set[str]) -> bool:
    """Whether this is transformers' PvtV2, with or without its `pvt_v2.` prefix."""
    return any(key.endswith("encoder.layers.0.patch_embedding.proj.weight") for key in keys)


def from_transformers_pvt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename transformers' Pvt to pvtctl's names and join each block's key and value into `kv`."""
    return _joined({_v1_name(key): value for key, value in state.items()})


def _v1_name(key: str) -> str:
    if key.startswith("classifier."):
        return key.replace("classifier.", "head.")
    key = key.removeprefix("pvt.").removeprefix("encoder.")
    if found := re.match(r"patch_embeddings\.([0-3])\.(.+)$", key):
        stage, rest = found.groups()
        match rest:
            case "position_embeddings":
                return f"backbone.stages.{stage}.pos_embed"
            case "cls_token":
                return "backbone.class_token"
            case _:
                rest = rest.replace("projection.", "proj.").replace("layer_norm.", "norm.")
                return f"backbone.stages.{stage}.patch_embed.{rest}"
    if found := re.match(r"block\.([0-3])\.(\d+)\.(.+)\.(weight|bias)$", key):
        stage, block, rest, kind = found.groups()
        return f"backbone.stages.{stage}.blocks.{block}.{_V1_BLOCK.get(rest, rest)}.{kind}"
    return "backbone." + key.replace("layer_norm.", "norm.")


def from_transformers_pvt_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename transformers' PvtV2 to pvtctl's names and join each block's key and value into `kv`."""
    return _joined({_v2_name(key): value for key, value in state.items()})


def _v2_name(key: str) -> str:
    if key.startswith("classifier."):
        return key.replace("classifier.", "head.")
    key = key.removeprefix("pvt_v2.").removeprefix("encoder.")
    found = re.match(r"layers\.([0-3])\.(.+)$", key)
    if found is None:
        return f"backbone.{key}"
    stage, rest = found.groups()
    if inner := re.match(r"blocks\.(\d+)\.(.+)\.(weight|bias)$", rest):
        block, part, kind = inner.groups()
        return f"backbone.stages.{stage}.blocks.{block}.{_V2_BLOCK.get(part, part)}.{kind}"
    rest = rest.replace("patch_embedding.", "patch_embed.").replace("layer_norm.", "norm.")
    return f"backbone.stages.{stage}.{rest}"


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


def to_transformers_pvt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_transformers_pvt`, for `PvtForImageClassification`: `pvt.*` and `classifier.*`."""
    return {_v1_of_ours(key): value for key, value in _split(state).items()}


def _v1_of_ours(key: str) -> str:
    if key.startswith("head."):
        return key.replace("head.", "classifier.")
    key = key.removeprefix("backbone.")
    if key == "class_token":
        return "pvt.encoder.patch_embeddings.3.cls_token"
    stage, part, rest = _parts_of_stage(key)
    match part:
        case "pos_embed":
            return f"pvt.encoder.patch_embeddings.{stage}.position_embeddings"
        case "patch_embed":
            rest = rest.replace("proj.", "projection.").replace("norm.", "layer_norm.")
            return f"pvt.encoder.patch_embeddings.{stage}.{rest}"
        case "blocks":
            return f"pvt.encoder.block.{stage}.{_block_of_ours(rest, _V1_BLOCK)}"
        case _:
            return f"pvt.encoder.{key.replace('norm.', 'layer_norm.')}"


def to_transformers_pvt_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_transformers_pvt_v2`, for `PvtV2ForImageClassification`: `pvt_v2.*` and `classifier.*`."""
    return {_v2_of_ours(key): value for key, value in _split(state).items()}


def _v2_of_ours(key: str) -> str:
    if key.startswith("head."):
        return key.replace("head.", "classifier.")
    stage, part, rest = _parts_of_stage(key.removeprefix("backbone."))
    match part:
        case "patch_embed":
            rest = "patch_embedding." + rest.replace("norm.", "layer_norm.")
        case "blocks":
            rest = f"blocks.{_block_of_ours(rest, _V2_BLOCK)}"
        case _:
            rest = f"layer_norm.{rest}"
    return f"pvt_v2.encoder.layers.{stage}.{rest}"


def _parts_of_stage(key: str) -> tuple[str, str, str]:
    """`stages.2.blocks.5.norm1.weight` -> 2, blocks, 5.norm1.weight; empty if not in a stage."""
    found = re.match(r"stages\.([0-3])\.(patch_embed|pos_embed|blocks|norm)\.?(.*)$", key)
    return (found[1], found[2], found[3]) if found else ("", "", "")


def _block_of_ours(rest: str, names: Mapping[str, str]) -> str:
    block, part, kind = re.match(r"(\d+)\.(.+)\.(weight|bias)$", rest).groups()  # type: ignore[union-attr]
    theirs = {ours: name for name, ours in names.items()}
    return f"{block}.{theirs[part]}.{kind}"


def _split(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split each block's `kv` into keys and values."""
    apart: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".attn.kv." in key:
            keys, values = value.chunk(2)
            apart |= {key.replace(".kv.", ".k."): keys, key.replace(".kv.", ".v."): values}
        else:
            apart[key] = value
    return apart
