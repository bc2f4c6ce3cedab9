"""Recognise the layout and the backbone of a state dict, from names and shapes, never from the file name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.registry import backbone_specs
from pvtctl.models.variants import join_width
from pvtctl.weights.layouts import detr as names_detr
from pvtctl.weights.layouts import dpt as names_dpt
from pvtctl.weights.layouts import mmdet as names_mmdet
from pvtctl.weights.layouts import mmseg as names_mmseg
from pvtctl.weights.layouts import official as names_official
from pvtctl.weights.layouts import ours as names_ours
from pvtctl.weights.layouts import resnet as names_resnet
from pvtctl.weights.layouts import timm as names_timm
from pvtctl.weights.layouts import torchvision as names_torchvision
from pvtctl.weights.layouts import trans2seg as names_trans2seg
from pvtctl.weights.layouts import transformers as names_transformers
from pvtctl.weights.layouts import transformers_dpt as names_transformers_dpt

Format = Literal[
    "pvtctl",
    "official PVT",
    "timm PVT v2",
    "timm ViT / DeiT",
    "torchvision ResNet",
    "transformers Pvt",
    "transformers PvtV2",
    "mmdetection PVT",
    "mmdetection RetinaNet",
    "mmdetection Mask R-CNN",
    "mmdetection DETR",
    "facebookresearch DETR",
    "torchvision RetinaNet",
    "torchvision Mask R-CNN",
    "mmsegmentation Semantic FPN",
    "mmsegmentation DeepLabV3+",
    "Trans2Seg",
    "isl-org DPT",
    "transformers DPT",
    "unknown",
]

# Not compared between two models: they depend on the image size or on the use, not on the model.
_USE_PARTS = ("class_token", "norm.weight", "norm.bias")
_HEAD = ("head.weight", "head.bias", "fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias")
# A name that each block has once
_BLOCK = r"(stages\.\d\.)?blocks\.\d+\.norm1\.weight|layer\d\.\d+\.bn1\.weight"
_WRAPPERS = ("module.", "_orig_mod.", "model.")


_PUBLISHERS = {
    "mmdetection": names_mmdet.to_mmdet,
    "DETR": names_detr.to_detr,
    "mmsegmentation": names_mmseg.to_mmseg,
}
"""`HeadSpec.publisher` -> function from pvtctl's names of the whole model to the publisher's."""


@dataclass(frozen=True)
class Converted:
    """A state dict under pvtctl's names (`backbone.*`, `neck.*`, `head.*`, as present) and its original layout."""

    state: dict[str, Tensor]
    format: Format


def convert_state(state: Mapping[str, Tensor]) -> Converted:
    """Recognise a state dict's layout by its names and rename it to pvtctl's names.

    Prefixes of wrappers (`module.`, `_orig_mod.`, `model.`) and of dense models (`backbone.`) are removed first. The layout
    of a detector or dense model is that of its head; unknown layouts are returned unchanged with format "unknown".
    """
    bare = strip_wrappers(state)
    above, named = _above(bare)
    inner, other = _split(named)
    format = recognise(set(inner))
    match format:
        case "pvtctl":
            converted = {key if key in _HEAD else f"backbone.{key}": value for key, value in inner.items()}
        case "official PVT":
            converted = names_official.from_official(inner)
        case "timm PVT v2":
            converted = names_timm.from_timm_pvt_v2(inner)
        case "timm ViT / DeiT":
            converted = names_timm.from_timm_vit(inner)
        case "torchvision ResNet":
            converted = names_resnet.from_resnet(inner)
            if any(key.startswith("backbone.") for key in bare) and "head.weight" in bare:
                format = "pvtctl"  # ours keeps torchvision's names inside the backbone
        case "transformers Pvt":
            converted = names_transformers.from_transformers_pvt(inner)
        case "transformers PvtV2":
            converted = names_transformers.from_transformers_pvt_v2(inner)
        case "mmdetection PVT":
            converted = names_mmdet.from_mmdet_pvt(inner)
        case _:
            return Converted(named if above else dict(bare), above or "unknown")
    return Converted(converted | other, above or format)


def _above(state: Mapping[str, Tensor]) -> tuple[Format | None, dict[str, Tensor]]:
    """The layout of a detector or dense model, and its state dict with pvtctl's names for neck and head and `backbone.`
    before the backbone's own.

    For all others None and the state dict, `backbone.` being right before the backbone's names there too.
    """
    keys = set(state)
    if names_ours.head_in(keys) is not None:
        return "pvtctl", dict(state)
    if names_mmdet.is_mmdet_retinanet(keys):
        return "mmdetection RetinaNet", names_mmdet.from_mmdet(state)
    if names_mmdet.is_mmdet_mask_rcnn(keys):
        return "mmdetection Mask R-CNN", names_mmdet.from_mmdet(state)
    if names_detr.is_mmdet_detr(keys):
        return "mmdetection DETR", names_detr.from_mmdet_detr(state)
    if names_detr.is_detr(keys):
        return "facebookresearch DETR", names_detr.from_detr(state)
    if names_torchvision.is_torchvision_retinanet(keys):
        return "torchvision RetinaNet", names_torchvision.from_torchvision(state)
    if names_torchvision.is_torchvision_mask_rcnn(keys):
        return "torchvision Mask R-CNN", names_torchvision.from_torchvision(state)
    if names_mmseg.is_semantic_fpn(keys):
        return "mmsegmentation Semantic FPN", names_mmseg.from_mmseg(state)
    if names_mmseg.is_deeplabv3plus(keys):
        return "mmsegmentation DeepLabV3+", names_mmseg.from_mmseg(state)
    if names_trans2seg.is_trans2seg(keys):
        return "Trans2Seg", names_trans2seg.from_trans2seg(state)
    if names_dpt.is_dpt(keys):
        return "isl-org DPT", names_dpt.from_dpt(state)
    if names_transformers_dpt.is_transformers_dpt(keys):
        return "transformers DPT", names_transformers_dpt.from_transformers_dpt(state)
    if not any(".body." in key for key in keys):
        return None, dict(state)
    bare = {re.sub(r"^backbone\.fpn\.", "neck.", key): value for key, value in state.items()}
    return None, {re.sub(r"^backbone\.(0\.)?body\.", "backbone.", key): value for key, value in bare.items()}


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A dense model's state dict as (backbone and classification head, necks and other heads); else (all, nothing)."""
    if not any(key.startswith("backbone.") for key in state):
        return dict(state), {}
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.") or k in _HEAD}
    other = {k: v for k, v in state.items() if not k.startswith("backbone.") and k not in _HEAD}
    return inner, other


def recognise(keys: set[str]) -> Format:
    """The layout with these parameter names (those of a dense model without `backbone.`)."""
    if names_ours.is_ours(keys):
        return "pvtctl"
    if names_official.is_official(keys):
        return "official PVT"
    if names_transformers.is_transformers_pvt(keys):
        return "transformers Pvt"
    if names_transformers.is_transformers_pvt_v2(keys):
        return "transformers PvtV2"
    if names_timm.is_timm_pvt_v2(keys):
        return "timm PVT v2"
    if names_timm.is_timm_vit(keys):
        return "timm ViT / DeiT"
    if names_resnet.is_resnet(keys):
        return "torchvision ResNet"
    if names_mmdet.is_mmdet_pvt(keys):
        return "mmdetection PVT"
    return "unknown"


def strip_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DDP, torch.compile, averaged models and training frameworks put before every name."""
    own = ("n_averaged", "data_preprocessor.mean", "data_preprocessor.std")  # of averaged models and mmdetection 3.x
    stripped = {key: value for key, value in state.items() if key not in own}
    while stripped and (prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in stripped)), None)):
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def to_publisher(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to the names of the model's publisher. Classifiers: PVT, DeiT or torchvision; detectors: mmdetection (also the
    official PVT repository's names) or facebookresearch (DETR); Semantic FPN and DeepLabV3+: mmsegmentation. Other dense
    models have none.
    """
    if (spec := names_ours.head_in(set(state))) is not None:
        backbone = to_publisher({key: value for key, value in state.items() if key.startswith("backbone.")})
        rest = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        whole = {f"backbone.{key}": value for key, value in backbone.items()} | rest
        return _PUBLISHERS[spec.publisher or "mmdetection"](whole)
    if "backbone.stages.0.patch_embed.proj.weight" in state:
        return names_official.to_official(state)
    if "backbone.class_token" in state:
        return names_timm.to_timm_vit(state)
    return names_resnet.to_resnet(state)


def identify(state: Mapping[str, Tensor]) -> list[str]:
    """Names of pvtctl's backbones with exactly these parameter names and shapes (`backbone.*` of `state`).

    Narrower ones include their factor, `pvt_small@0.25`. Empty for unknown backbones; two names where two models have the
    same shapes (`deit_base_patch16`, `vit_base_patch16`). The image size and the presence of class token, final norm and
    head do not matter.
    """
    shapes = _signature({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    names = _candidates(shapes)
    return [name for name in names if _known_signature(name) == shapes] or _scaled(names, shapes)


def _scaled(names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Those of `names` that have these shapes at some width, the least scaled first."""
    found = []
    for name in names:
        full = _known_signature(name)
        shared = [key for key in full if len(full[key]) == 1 and key in shapes]
        if not shared:
            continue
        widest = max(shared, key=lambda key: full[key][0])
        factor = shapes[widest][0] / full[widest][0]
        with suppress(UsageError):  # a width that the family cannot have
            if 0 < factor < 1 and _known_signature(join_width(name, factor)) == shapes:
                found.append((factor, join_width(name, factor)))
    return [name for _, name in sorted(found, reverse=True)]


def _signature(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if key not in _USE_PARTS and not key.endswith(("pos_embed", "num_batches_tracked"))
    }


def _candidates(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Candidates to build: those whose family and depth agree with the parameter names."""
    depth = sum(re.fullmatch(_BLOCK, key) is not None for key in shapes)
    if "stages.0.patch_embed.proj.weight" in shapes:
        family = "pvt_v2" if "stages.0.norm.weight" in shapes else "pvt_v1"
    elif "blocks.0.attn.qkv.weight" in shapes:
        family = "vit"
    else:
        family = "resnet"
    # specs without a block count are the few registered by users
    return [
        spec.name for spec in backbone_specs() if spec.blocks is None or (spec.family, spec.blocks) == (family, depth)
    ]


@cache
def _known_signature(name: str) -> dict[str, tuple[int, ...]]:
    from pvtctl.models.backbones import build_backbone

    with torch.device("meta"):
        return _signature(build_backbone(name).state_dict())
