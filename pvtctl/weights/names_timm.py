"""Parameter names of timm's PVT v2 and ViT / DeiT (the official DeiT files use the latter), and ours."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

from torch import Tensor


def is_timm_pvt_v2(keys: set[str]) -> bool:
    """timm's PVT v2: the first patch embedding stands outside the stages."""
    return "patch_embed.proj.weight" in keys and "stages.0.blocks.0.attn.kv.weight" in keys


def from_timm_pvt_v2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's PVT v2 to ours: `patch_embed` and `stages.N.downsample` become `stages.N.patch_embed`."""
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
    """timm's and DeiT's ViT: one fused qkv a block, and a class token."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token"} <= keys


def from_timm_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename timm's ViT to ours: only the class token and the head have other names."""
    return {_vit_to_ours(key): value for key, value in state.items()}


def _vit_to_ours(key: str) -> str:
    if key == "cls_token":
        return "backbone.class_token"
    return key if key.startswith("head.") else f"backbone.{key}"


def to_timm_vit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_timm_vit`."""
    return {key.removeprefix("backbone.").replace("class_token", "cls_token"): value for key, value in state.items()}


def timm_bridge_name(key: str, targets: Container[str], *, ours: bool) -> str:
    """Where a timm model's parameter `key` lies in a `timm:NAME` backbone; `key` itself where it has no place.

    timm's feature extractors flatten the first level of names (`stages.0.x` is `stages_0.x`) or put the model under
    `model.`. The classifier's layers, which they leave out, have none, and its head neither: it was not trained on what
    our classifier pools.
    """
    if key in ("head.weight", "head.bias") and not ours:
        return f"timm.{key}"
    if key in targets:
        return key
    flat = re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key)
    names = (f"backbone.{key}", f"backbone.net.{key}", f"backbone.net.{flat}", f"backbone.net.model.{key}")
    return next((name for name in names if name in targets), key)
