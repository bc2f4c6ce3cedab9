"""Parameter names of timm's PVT v2 and ViT / DeiT; the official DeiT files use the latter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pvtctl.models.backbones.timm_build import plain_name
from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

_EPS = 1e-5
"""Of the batch norm before a classifier."""
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


def to_timm_bridge(state: State, targets: Mapping[str, Tensor], classifiers: Sequence[str] = ()) -> dict[str, Tensor]:
    """Rename timm's own parameters, or those of a `timm:NAME` backbone, to the names of `targets`, a model with one.

    timm's feature extractors flatten the first level of names (`stages.0.x` is `stages_0.x`) or put the model under
    `model.`. `classifiers`: the names of timm's last linear layers where the backbone has the layers before them; the head of
    others has no name here, as it was not trained on the features that they pool. What has no place keeps its name.
    """
    places = {plain_name(name.removeprefix("backbone.")): name for name in targets if name.startswith("backbone.net.")}
    if any(key.startswith(("backbone.net.", "net.")) for key in state):
        renamed = {key: places.get(plain_name(key.removeprefix("backbone.")), key) for key in state}
        # what only a classifier has
        return {
            (f"timm.{name}" if name.startswith("backbone.") and name not in targets else name): state[key]
            for key, name in renamed.items()
        }
    named = {}
    for key, value in state.items():
        name = places.get(plain_name(key), key)
        named[f"timm.{key}" if name == key and key.startswith("head.") else name] = value
    # a file without any of the names is of another model, whose head keeps its own
    return named | _one_layer(state, classifiers, targets) if places.keys() & map(plain_name, state) else dict(state)


def _one_layer(state: State, names: Sequence[str], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The linear layer that gives the mean of the logits of those of `names` that are there: layers on the same features, or
    each on its part of them.
    """
    layers = [layer for name in names if (layer := _with_norm(state, name)) is not None]
    if not layers:
        return {}
    weights, biases = [weight for weight, _ in layers], torch.stack([bias for _, bias in layers])
    if len({weight.shape[0] for weight in weights}) > 1:
        return {}
    apart = sum(weight.shape[1] for weight in weights) == targets["head.weight"].shape[1]
    whole = torch.cat(weights, dim=1) / len(weights) if apart else torch.stack(weights).mean(0)
    return {"head.weight": whole, "head.bias": biases.mean(0)}


def _with_norm(state: State, name: str) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a linear layer, with the batch norm before it (`bn` in the same module, in evaluation), if it has one."""
    weight = state.get(f"{name}.weight")
    if weight is None or weight.ndim != 2:
        return None
    bias = state.get(f"{name}.bias", weight.new_zeros(len(weight)))
    norm = [
        state.get(f"{name.rpartition('.')[0]}.bn.{part}") for part in ("weight", "bias", "running_mean", "running_var")
    ]
    scale, shift, mean, variance = norm
    if scale is None or shift is None or mean is None or variance is None:
        return weight, bias
    scale = scale / (variance + _EPS).sqrt()
    return weight * scale, bias + weight @ (shift - mean * scale)
