"""Parameter names of timm's PVT v2 and ViT / DeiT (the official DeiT files use the latter), and pvtctl's."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from pvtctl.weights.layouts.dpt import hybrid_stem

# pvtctl's names to timm's, of a hybrid's ResNet
_HYBRID = (
    (r"^patch_embed\.stem\.", "patch_embed.backbone.stem.conv."),
    (r"^patch_embed\.stem_norm\.", "patch_embed.backbone.stem.norm."),
    (r"^patch_embed\.stages\.(\d)\.", r"patch_embed.backbone.stages.\1.blocks."),
    (r"\.shortcut\.0\.", ".downsample.conv."),
    (r"\.shortcut\.1\.", ".downsample.norm."),
)


def is_timm_pvt_v2(keys: set[str]) -> bool:
    """Whether this is timm's PVT v2, whose first patch embedding is not in a stage."""
    return "patch_embed.proj.weight" in keys and "stages.0.blocks.0.attn.kv.weight" in keys


def from_timm_pvt_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's PVT v2 to pvtctl's names: `patch_embed` and `stages.N.downsample` become `stages.N.patch_embed`."""
    converted = {}
    for key, value in state.items():
        if key.startswith("head."):
            name = key
        elif key.startswith("patch_embed."):
            name = f"backbone.stages.0.{key}"
        else:
            name = "backbone." + re.sub(r"^(stages\.[1-3])\.downsample\.", r"\1.patch_embed.", key)
        converted[name] = value
    return converted


def is_timm_vit(keys: set[str]) -> bool:
    """Whether this is timm's or DeiT's ViT, plain, distilled or hybrid: one fused qkv per block, and a class token."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token"} <= keys


def from_timm_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's ViT to pvtctl's names: the tokens, the ResNet of a hybrid, and the head are renamed.

    A distilled DeiT averages two classifiers; they become the equivalent single one over both tokens.
    """
    converted = {_vit_to_ours(key): value for key, value in state.items() if not key.startswith("head_dist.")}
    if "dist_token" in state and {"head_dist.weight", "head_dist.bias", "head.weight", "head.bias"} <= state.keys():
        converted["head.weight"] = torch.cat([state["head.weight"], state["head_dist.weight"]], dim=1) / 2
        converted["head.bias"] = (state["head.bias"] + state["head_dist.bias"]) / 2
    return converted


def _vit_to_ours(key: str) -> str:
    match key:
        case "cls_token":
            return "backbone.class_token"
        case "dist_token":
            return "backbone.distillation_token"
        case _:
            return key if key.startswith("head.") else f"backbone.{hybrid_stem(key)}"


def to_timm_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_timm_vit`; both classifiers of a distilled DeiT get the same bias, the mean of the two."""
    converted = {_vit_to_timm(key): value for key, value in state.items()}
    if "backbone.distillation_token" in state and "head.weight" in state:
        width = state["head.weight"].shape[1] // 2
        converted["head.weight"] = 2 * state["head.weight"][:, :width]
        converted |= {"head_dist.weight": 2 * state["head.weight"][:, width:], "head_dist.bias": state["head.bias"]}
    return converted


def _vit_to_timm(key: str) -> str:
    name = key.removeprefix("backbone.")
    if name == "distillation_token":
        return "dist_token"
    for pattern, theirs in _HYBRID:
        name = re.sub(pattern, theirs, name)
    return name.replace("class_token", "cls_token")


def timm_bridge_name(key: str, targets: Container[str], *, ours: bool) -> str:
    """The name of a timm model's parameter `key` in a `timm:NAME` backbone; `key` itself where it has none.

    timm's feature extractors flatten the first level of names (`stages.0.x` is `stages_0.x`) or put the model under
    `model.`. They omit the classifier's layers, which have no name here, nor has the head: it was not trained on the
    features that pvtctl's classifier pools.
    """
    if key in ("head.weight", "head.bias") and not ours:
        return f"timm.{key}"
    if key in targets:
        return key
    flat = re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key)
    names = (f"backbone.{key}", f"backbone.net.{key}", f"backbone.net.{flat}", f"backbone.net.model.{key}")
    return next((name for name in names if name in targets), key)
