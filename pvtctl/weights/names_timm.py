"""Parameter names of timm's PVT v2 and ViT / DeiT (the official DeiT files use the latter), and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
