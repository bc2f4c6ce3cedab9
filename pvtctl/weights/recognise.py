"""Recognise the layout and the backbone of a state dict, from names and shapes, never from the file name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.backbone_names import TIMM_PREFIX, join_name
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import HeadSpec, backbone_specs, head_specs
from pvtctl.weights.layouts import (
    depth_anything,
    detr,
    dpt,
    mmdet,
    mmseg,
    official,
    timm,
    torchvision,
    trans2seg,
    transformers,
    transformers_resnet,
)
from pvtctl.weights.layouts.base import CheckpointLayout, Format

# Not compared between two models: they depend on the image size or on the use, not on the model.
_USE_PARTS = ("class_token", "norm.weight", "norm.bias")
_HEAD = ("head.weight", "head.bias", "fc.weight", "fc.bias", "head.fc.weight", "head.fc.bias")
# A name that each block has once
_BLOCK = r"(stages\.\d\.)?blocks\.\d+\.norm1\.weight|layer\d\.\d+\.bn1\.weight"
_WRAPPERS = ("module.", "_orig_mod.", "model.")

_WITH_HEAD = (
    mmdet.RETINANET,
    mmdet.MASK_RCNN,
    detr.MMDETECTION,
    detr.FACEBOOK,
    detr.TRANSFORMERS,
    torchvision.RETINANET,
    torchvision.MASK_RCNN,
    mmseg.SEMANTIC_FPN,
    mmseg.DEEPLABV3PLUS,
    trans2seg.TRANS2SEG,
    dpt.DPT,
    transformers.DPT,
    depth_anything.ORIGINAL,
    depth_anything.TRANSFORMERS,
)
"""Layouts of detectors and dense models; the first that fits counts."""
_BACKBONES = (
    CheckpointLayout(  # ResNets have torchvision's names
        "pvtctl",
        (
            {"stages.0.patch_embed.proj.weight"},
            {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "class_token"},
        ),
        lambda state: {key if key in _HEAD else f"backbone.{key}": value for key, value in state.items()},
    ),
    official.PVT,
    transformers.PVT,
    transformers.PVT_V2,
    transformers.VIT,
    transformers_resnet.RESNET,
    timm.PVT_V2,
    timm.VIT,
    torchvision.RESNET,
    mmdet.PVT,
)
"""Layouts of backbones and classifiers, names without `backbone.`."""

_PUBLISHERS = {"mmdetection": mmdet.to_mmdet, "DETR": detr.RULES.to_theirs, "mmsegmentation": mmseg.to_mmseg}
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
    head_format, named = _with_head(bare)
    inner, other = _split(named)
    layout = next((each for each in _BACKBONES if each.fits(set(inner))), None)
    if layout is None:
        return Converted(named if head_format else bare, head_format or "unknown")
    format = layout.format
    if layout is torchvision.RESNET and "head.weight" in bare and any(key.startswith("backbone.") for key in bare):
        format = "pvtctl"  # ours keeps torchvision's names inside the backbone
    return Converted(layout.to_ours(inner) | other, head_format or format)


def _with_head(state: dict[str, Tensor]) -> tuple[Format | None, dict[str, Tensor]]:
    """The layout of a detector or dense model, and its state dict with pvtctl's names for neck and head and `backbone.`
    before the backbone's own.

    For all others None and the state dict, `backbone.` being right before the backbone's names there too.
    """
    keys = set(state)
    if _own_head(keys) is not None:
        return "pvtctl", state
    if (layout := next((each for each in _WITH_HEAD if each.fits(keys)), None)) is not None:
        return layout.format, layout.to_ours(state)
    if not any(".body." in key for key in keys):
        return None, state
    bare = {re.sub(r"^backbone\.fpn\.", "neck.", key): value for key, value in state.items()}
    return None, {re.sub(r"^backbone\.(0\.)?body\.", "backbone.", key): value for key, value in bare.items()}


def _own_head(keys: set[str]) -> HeadSpec | None:
    """The head of a pvtctl detector or dense model: its names start with `head.`, unlike other projects', and the backbone
    has no `body`.
    """
    marks = ((spec, mark) for spec in head_specs() for mark in spec.marks)
    return next((spec for spec, mark in marks if mark.names | mark.beside <= keys), None)


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A dense model's state dict as (backbone and classification head, necks and other heads); else (all, nothing)."""
    if not any(key.startswith("backbone.") for key in state):
        return dict(state), {}
    inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.") or k in _HEAD}
    other = {k: v for k, v in state.items() if not k.startswith("backbone.") and k not in _HEAD}
    return inner, other


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
    if (spec := _own_head(set(state))) is not None:
        backbone = to_publisher({key: value for key, value in state.items() if key.startswith("backbone.")})
        rest = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        whole = {f"backbone.{key}": value for key, value in backbone.items()} | rest
        return _PUBLISHERS[spec.publisher or "mmdetection"](whole)
    if "backbone.stages.0.patch_embed.proj.weight" in state:
        return official.RULES.to_theirs(state)
    if "backbone.class_token" in state:
        return timm.to_timm_vit(state)
    return torchvision.to_resnet(state)


def identify(state: Mapping[str, Tensor], stated: str | None = None) -> list[str]:
    """Names of pvtctl's backbones with exactly these parameter names and shapes (`backbone.*` of `state`).

    Narrower ones include their factor, `pvt_small@0.25`. Empty for unknown backbones; two names where two models have the
    same shapes (`deit_base_patch16`, `vit_base_patch16`). The image size and the presence of class token, final norm and
    head do not matter. The name that the file states (`stated`) is believed where the file has its shapes: options are in no
    shape, or in shapes that many have, and a narrow model may be that of several names. DINOv2 without registers, as in
    Depth Anything, is timm's.
    """
    if (dinov2 := depth_anything.dinov2_of(state)) is not None:
        return [dinov2]
    shapes = _signature({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    if stated is not None and not stated.startswith(TIMM_PREFIX):
        with suppress(UsageError):  # a name of another version
            if _known_signature(stated) == shapes:
                return [stated]
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
            if 0 < factor < 1 and _known_signature(join_name(name, factor)) == shapes:
                found.append((factor, join_name(name, factor)))
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

    with without_values():
        return _signature(build_backbone(name).state_dict())
