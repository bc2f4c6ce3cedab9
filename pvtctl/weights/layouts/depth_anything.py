"""Parameter names of Depth Anything V1 and V2: the original layout, and Hugging Face transformers'.

A DINOv2 under DPT's decoder for depth. Sources: the parameters of the original models (LiheYoung/Depth-Anything and
DepthAnything/Depth-Anything-V2) by name and shape, the state dict of `DepthAnythingForDepthEstimation` (transformers 5, and
the names of the files that earlier versions saved).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Format, Rules, State, join_rows, split_rows
from pvtctl.weights.layouts.dpt import PLAIN_UNIT
from pvtctl.weights.layouts.transformers import with_unused_unit

_NET = "backbone.net.model."
_BACKBONES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
_UNUSED = (
    "pretrained.mask_token",
    "depth_head.scratch.refinenet4.resConfUnit1.",
    "backbone.embeddings.mask_token",
    "neck.fusion_stage.layers.0.residual_layer1.",
)
"""What the outputs never depend on."""


def _original_to_ours(state: State) -> dict[str, Tensor]:
    levels = (
        ("depth_head.scratch.layer{}_rn.", "head.decoder.narrow.{}."),
        ("depth_head.scratch.refinenet{}.out_conv.", "head.decoder.fusions.{}.mix."),
        *(
            (f"depth_head.scratch.refinenet{{}}.{unit}.{theirs}", f"head.decoder.fusions.{{}}.{name}.{ours}")
            for unit, name in (("resConfUnit1", "skip"), ("resConfUnit2", "unit"))
            for theirs, ours in PLAIN_UNIT
        ),
    )
    return Rules(
        ("pretrained.blocks.#.mlp.w12.", f"{_NET}blocks.#.mlp.fc1."),  # ViT-Giant's SwiGLU
        ("pretrained.blocks.#.mlp.w3.", f"{_NET}blocks.#.mlp.fc2."),
        ("pretrained.", _NET),
        ("depth_head.projects.#.", "head.reassemble.#.project."),
        ("depth_head.resize_layers.#.", "head.reassemble.#.resample."),
        ("depth_head.readout_projects.#.0.", "head.reassemble.#.read."),
        *((theirs.format(level + 1), ours.format(level)) for level in range(4) for theirs, ours in levels),
        ("depth_head.scratch.output_conv1.", "head.output.first."),
        ("depth_head.scratch.output_conv2.0.", "head.output.second."),
        ("depth_head.scratch.output_conv2.2.", "head.output.last."),
    ).to_ours(_used(state))


_LAYER = "backbone.encoder.layer.#."
_BLOCK = f"{_NET}blocks.#."
_ATTENTION = (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "proj"))
_SAVED = (
    ("attention.query", "q"),
    ("attention.key", "k"),
    ("attention.value", "v"),
    ("output.dense", "proj"),
)
"""Names of attention in files; transformers 5 renames them in memory."""
_SHARED = (
    ("backbone.embeddings.cls_token", f"{_NET}cls_token"),
    ("backbone.embeddings.position_embeddings", f"{_NET}pos_embed"),
    ("backbone.embeddings.patch_embeddings.projection.", f"{_NET}patch_embed.proj."),
    *((f"{_LAYER}attention.{theirs}.", f"{_BLOCK}attn.{ours}.") for theirs, ours in (*_SAVED, *_ATTENTION)),
    *((f"{_LAYER}layer_scale{number}.lambda1", f"{_BLOCK}ls{number}.gamma") for number in (1, 2)),
    (_LAYER, _BLOCK),
    ("backbone.layernorm.", f"{_NET}norm."),
    ("neck.reassemble_stage.layers.#.projection.", "head.reassemble.#.project."),
    ("neck.reassemble_stage.layers.#.resize.", "head.reassemble.#.resample."),
    ("neck.convs.", "head.decoder.narrow."),
    *(  # theirs are counted from the coarsest, ours from the finest
        (f"neck.fusion_stage.layers.{3 - number}.{theirs}", f"head.decoder.fusions.{number}.{ours}")
        for number in range(4)
        for theirs, ours in (
            ("projection.", "mix."),
            *(
                (f"{their_unit}.{theirs.replace('conv', 'convolution')}", f"{our_unit}.{ours}")
                for their_unit, our_unit in (("residual_layer1", "skip"), ("residual_layer2", "unit"))
                for theirs, ours in PLAIN_UNIT
            ),
        )
    ),
    ("head.conv1.", "head.output.first."),
    ("head.conv2.", "head.output.second."),
    ("head.conv3.", "head.output.last."),
)


_GATED = ((f"{_LAYER}mlp.weights_in.", f"{_BLOCK}mlp.fc1."), (f"{_LAYER}mlp.weights_out.", f"{_BLOCK}mlp.fc2."))
"""ViT-Giant's SwiGLU."""
_THREE, _QKV = ("attn.q", "attn.k", "attn.v"), "attn.qkv"


def _transformers_to_ours(state: State) -> dict[str, Tensor]:
    return join_rows(Rules(*_GATED, *_SHARED).to_ours(_used(state)), _THREE, _QKV)


def to_transformers_depth_anything(state: State) -> dict[str, Tensor]:
    """Rename pvtctl's DPT on timm's DINOv2 for `DepthAnythingForDepthEstimation`, with initial values for what that has
    besides and never uses: a mask token, and the first residual unit of the coarsest fusion.
    """
    first, second = (state[f"{_NET}blocks.0.mlp.{layer}.weight"] for layer in ("fc1", "fc2"))
    rules = Rules(*(_GATED if first.shape[0] != second.shape[1] else ()), *_SHARED)
    theirs = rules.to_theirs(split_rows(state, _THREE, _QKV))
    mask = torch.zeros(1, state[f"{_NET}cls_token"].shape[-1])
    return {"backbone.embeddings.mask_token": mask} | with_unused_unit(theirs)


def _used(state: State) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(_UNUSED)}


ORIGINAL = CheckpointLayout(
    "Depth Anything",
    ({"pretrained.pos_embed", "pretrained.blocks.0.ls1.gamma", "depth_head.scratch.refinenet1.out_conv.weight"},),
    _original_to_ours,
)
TRANSFORMERS = CheckpointLayout(
    "transformers Depth Anything",
    (
        {
            "backbone.embeddings.position_embeddings",
            "backbone.encoder.layer.0.layer_scale1.lambda1",
            "neck.reassemble_stage.layers.3.projection.weight",
            "head.conv3.weight",
        },
    ),
    _transformers_to_ours,
)
FORMATS = (ORIGINAL.format, TRANSFORMERS.format)


def is_dinov2(state: State) -> bool:
    """Whether a state dict with pvtctl's names has timm's DINOv2 without registers, of any width, as its backbone."""
    patches, marks = state.get(f"{_NET}patch_embed.proj.weight"), (f"{_NET}blocks.0.ls1.gamma", f"{_NET}cls_token")
    if patches is None or patches.shape[-1] != 14:
        return False
    return all(name in state for name in marks) and f"{_NET}reg_token" not in state


def dinov2_of(state: State) -> str | None:
    """`timm:NAME` of the DINOv2 without registers in a state dict with pvtctl's names, by its width."""
    if not is_dinov2(state):
        return None
    size = _BACKBONES.get(int(state[f"{_NET}patch_embed.proj.weight"].shape[0]))
    return None if size is None else f"timm:vit_{size}_patch14_dinov2"


def usual_options(state: State) -> dict[str, Any]:
    """Options of DPT's head that an original file does not state. The blocks that are read are V2's, which are DINOv2's own
    (see `unstated`).
    """
    reads_class_token = "head.reassemble.0.read.weight" in state
    return {"readout": "project" if reads_class_token else "ignore"}


def unstated(format: Format, stated: Mapping[str, Any] | None, state: State) -> str:
    """What a file of Depth Anything does not say of its model, and how it can be said; empty if it does, and for other files.

    The blocks that V1 and V2 read are the only difference between them (V2's authors, Depth-Anything-V2's issue 176), and
    metric models differ in the function at the end: no name and no shape of a parameter tells them apart.
    """
    if format not in FORMATS or "taps" in (stated or {}):
        return ""
    blocks = sum(name.startswith(f"{_NET}blocks.") and name.endswith(".norm1.weight") for name in state)
    last = ",".join(str(blocks - 3 + at) for at in range(4))
    return (
        "V1 (the last four blocks), V2 and V2's metric models have files of the same names and shapes; for V1 `pvtctl weights "
        f"convert FILE OUT --head-option taps={last}`, for metres up to 20 --head-option max_depth=20, or in training --set "
        "model.head.taps and model.head.max_depth"
    )


def depth_anything_meta(config: Mapping[str, Any]) -> dict[str, Any]:
    """pvtctl metadata from the `config.json` of a transformers model: taps, and the largest depth of a metric one."""
    if config.get("model_type") != "depth_anything":
        return {}
    options: dict[str, Any] = {"readout": "ignore"}
    backbone = config.get("backbone_config")
    blocks = backbone.get("out_indices") if isinstance(backbone, dict) else None
    if isinstance(blocks, list) and len(blocks) == 4 and all(isinstance(block, int) for block in blocks):
        options["taps"] = blocks
    found: dict[str, Any] = {"head": "dpt", "head_options": options}
    if config.get("depth_estimation_type") == "metric":
        options["max_depth"] = float(config.get("max_depth") or 1)
        found["scale_shift"] = [1.0, 0.0]
    return found
