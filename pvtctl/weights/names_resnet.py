"""Parameter names of torchvision's ResNets and ResNeXts (timm's are the same), and ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def is_resnet(keys: set[str]) -> bool:
    """torchvision's names: stem `conv1` (timm's deep one is a sequence of three), stages `layer1`..`layer4`."""
    stem = {"conv1.weight", "conv1.0.weight"} & keys
    return bool(stem) and {"bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= keys


def from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to ours: the backbone keeps its names, `fc` (and OpenMMLab's `head.fc`) becomes `head`, as ours is."""
    converted = {}
    for key, value in state.items():
        name = key.removeprefix("head.").removeprefix("fc.")
        in_head = key.startswith(("fc.", "head.")) and name in ("weight", "bias")
        converted[f"head.{name}" if in_head else f"backbone.{key}"] = value
    return converted


def to_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_resnet`, in torchvision's form."""
    return {
        f"fc.{key.removeprefix('head.')}" if key.startswith("head.") else key.removeprefix("backbone."): value
        for key, value in state.items()
    }
