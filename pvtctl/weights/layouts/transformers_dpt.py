"""Parameter names of Hugging Face transformers' DPT (with a ViT or the hybrid), and pvtctl's.

Source: the state dicts of `DPTForDepthEstimation` and `DPTForSemanticSegmentation` (transformers 5), and their docstrings
for the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvtctl.weights.layouts.mmdet import renamed

_BIT = r"dpt\.embeddings\.backbone\.bit\."
_LAYER = r"dpt\.encoder\.layer\.(\d+)\."
_RULES = (
    (r"dpt\.embeddings\.cls_token", "backbone.class_token"),
    (r"dpt\.embeddings\.position_embeddings", "backbone.pos_embed"),
    (r"dpt\.embeddings\.(patch_embeddings\.)?projection\.", "backbone.patch_embed.proj."),
    (_BIT + r"embedder\.convolution\.", "backbone.patch_embed.stem."),
    (_BIT + r"embedder\.norm\.", "backbone.patch_embed.stem_norm."),
    (
        _BIT + r"encoder\.stages\.(\d)\.layers\.(\d+)\.downsample\.conv\.",
        r"backbone.patch_embed.stages.\1.\2.shortcut.0.",
    ),
    (
        _BIT + r"encoder\.stages\.(\d)\.layers\.(\d+)\.downsample\.norm\.",
        r"backbone.patch_embed.stages.\1.\2.shortcut.1.",
    ),
    (_BIT + r"encoder\.stages\.(\d)\.layers\.", r"backbone.patch_embed.stages.\1."),
    (_LAYER + r"layernorm_before\.", r"backbone.blocks.\1.norm1."),
    (_LAYER + r"layernorm_after\.", r"backbone.blocks.\1.norm2."),
    (_LAYER + r"attention\.attention\.", r"backbone.blocks.\1.attn."),
    (_LAYER + r"attention\.output\.dense\.", r"backbone.blocks.\1.attn.proj."),
    (_LAYER + r"intermediate\.dense\.", r"backbone.blocks.\1.mlp.fc1."),
    (_LAYER + r"output\.dense\.", r"backbone.blocks.\1.mlp.fc2."),
    (r"dpt\.layernorm\.", "backbone.norm."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"head.reassemble.\1.project."),
    (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"head.reassemble.\1.resample."),
    (r"neck\.reassemble_stage\.readout_projects\.(\d)\.0\.", r"head.reassemble.\1.read."),
    (r"neck\.convs\.", "head.decoder.narrow."),
)
_DEPTH = (
    (r"head\.head\.0\.", "head.output.first."),
    (r"head\.head\.2\.", "head.output.second."),
    (r"head\.head\.4\.", "head.output.last."),
)
_SEGMENTATION = (
    (r"head\.head\.0\.", "head.output.first.conv."),
    (r"head\.head\.1\.", "head.output.first.bn."),
    (r"head\.head\.4\.", "head.output.last."),
    (r"auxiliary_head\.head\.0\.", "head.auxiliary.first.conv."),
    (r"auxiliary_head\.head\.1\.", "head.auxiliary.first.bn."),
    (r"auxiliary_head\.head\.4\.", "head.auxiliary.last."),
)
_FUSION = re.compile(r"neck\.fusion_stage\.layers\.(\d)\.(.+)")
_UNIT = re.compile(r"residual_layer([12])\.(convolution|batch_norm)([12])\.(\w+)")
_QKV = re.compile(r"(.+\.attn\.)query\.(weight|bias)")


def is_transformers_dpt(keys: set[str]) -> bool:
    """Whether this is transformers' DPT with its own ViT or hybrid; others have no `dpt.embeddings`."""
    return {"dpt.embeddings.cls_token", "neck.reassemble_stage.layers.3.projection.weight"} <= keys


def from_transformers_dpt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to pvtctl's `backbone.*` and `head.*`, each block's query, key and value joined into `qkv`.

    Unused parameters are left out: the pooler, and the first residual unit of the coarsest fusion.
    """
    normed = any(".batch_norm1." in key for key in state)
    rules = (*_RULES, *(_SEGMENTATION if "head.head.1.running_mean" in state else _DEPTH))
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(("dpt.pooler.", "neck.fusion_stage.layers.0.residual_layer1.")):
            continue
        name = _fusion(key, normed) or renamed(key, rules)
        if found := _QKV.fullmatch(name):
            three = [state[key.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            converted[f"{found[1]}qkv.{found[2]}"] = torch.cat(three)
        elif re.search(r"\.attn\.(key|value)\.", name) is None:
            converted[name] = value
    return converted


def _fusion(key: str, normed: bool) -> str | None:
    """transformers counts fusions from the coarsest, pvtctl from the finest."""
    found = _FUSION.fullmatch(key)
    if found is None:
        return None
    fusion, rest = f"head.decoder.fusions.{3 - int(found[1])}", found[2]
    unit = _UNIT.fullmatch(rest)
    if unit is None:
        return f"{fusion}.{rest.replace('projection.', 'mix.')}"
    step = f"{fusion}.{'skip' if unit[1] == '1' else 'unit'}.{'first' if unit[3] == '1' else 'second'}"
    if normed:
        return f"{step}.{'conv' if unit[2] == 'convolution' else 'bn'}.{unit[4]}"
    return f"{step}.{'0.' if unit[3] == '1' else ''}{unit[4]}"


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """pvtctl metadata from a model's `config.json`: readout, taps, classes."""
    if config.get("model_type") != "dpt":
        return {}
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
