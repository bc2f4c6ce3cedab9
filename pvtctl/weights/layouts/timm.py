"""Parameter names of timm's PVT v2 and ViT / DeiT; the official DeiT files use the latter."""

from __future__ import annotations

import re
from collections.abc import Container

import torch
from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

VIT_BODY = (
    ("cls_token", "backbone.class_token"),
    ("dist_token", "backbone.distillation_token"),
    ("patch_embed.backbone.stem.conv.", "backbone.patch_embed.stem."),
    ("patch_embed.backbone.stem.norm.", "backbone.patch_embed.stem_norm."),
    ("patch_embed.backbone.stages.#.blocks.#.downsample.conv.", "backbone.patch_embed.stages.#.#.shortcut.0."),
    ("patch_embed.backbone.stages.#.blocks.#.downsample.norm.", "backbone.patch_embed.stages.#.#.shortcut.1."),
    ("patch_embed.backbone.stages.#.blocks.", "backbone.patch_embed.stages.#."),
    ("", "backbone."),
)
"""Of a ViT without its classifier, plain, distilled or with a hybrid's ResNet."""
_VIT_RULES = Rules(("head.", "head."), *VIT_BODY)
_PVT_V2_RULES = Rules(
    ("head.", "head."),
    ("patch_embed.", "backbone.stages.0.patch_embed."),
    ("stages.#.downsample.", "backbone.stages.#.patch_embed."),
    ("", "backbone."),
)


def _vit_to_ours(state: State) -> dict[str, Tensor]:
    """A distilled DeiT averages two classifiers; they become the equivalent single one over both tokens."""
    converted = _VIT_RULES.to_ours({key: value for key, value in state.items() if not key.startswith("head_dist.")})
    if "dist_token" in state and {"head_dist.weight", "head_dist.bias", "head.weight", "head.bias"} <= state.keys():
        converted["head.weight"] = torch.cat([state["head.weight"], state["head_dist.weight"]], dim=1) / 2
        converted["head.bias"] = (state["head.bias"] + state["head_dist.bias"]) / 2
    return converted


def to_timm_vit(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl ViT; both classifiers of a distilled DeiT get the same bias, the mean of the two."""
    converted = _VIT_RULES.to_theirs(state)
    if "backbone.distillation_token" in state and "head.weight" in state:
        width = state["head.weight"].shape[1] // 2
        converted["head.weight"] = 2 * state["head.weight"][:, :width]
        converted |= {"head_dist.weight": 2 * state["head.weight"][:, width:], "head_dist.bias": state["head.bias"]}
    return converted


PVT_V2 = CheckpointLayout(
    "timm PVT v2", ({"patch_embed.proj.weight", "stages.0.blocks.0.attn.kv.weight"},), _PVT_V2_RULES.to_ours
)
VIT = CheckpointLayout(
    "timm ViT / DeiT", ({"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token"},), _vit_to_ours
)


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
