"""Parameter names of torchvision's ResNets and ResNeXts (timm's are the same), and ours.

Deep stems: timm's and Trans2Seg's have our names, `conv1.0` to `conv1.6` and `bn1`; OpenMMLab's ResNetV1c has one sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def is_resnet(keys: set[str]) -> bool:
    """torchvision's names: stem `conv1`, stages `layer1`..`layer4`; the stem may be a deep one."""
    stems = ({"conv1.weight", "bn1.weight"}, {"conv1.0.weight", "bn1.weight"}, {"stem.0.weight", "stem.7.weight"})
    return any(stem <= keys for stem in stems) and {"layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= keys


def from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to ours: the backbone keeps its names but for OpenMMLab's deep `stem`, `fc` (and its `head.fc`) becomes
    `head`, as ours is."""
    converted = {}
    for key, value in state.items():
        name = key.removeprefix("head.").removeprefix("fc.")
        in_head = key.startswith(("fc.", "head.")) and name in ("weight", "bias")
        inner = re.sub(r"^stem\.", "conv1.", re.sub(r"^stem\.7\.", "bn1.", key))
        converted[f"head.{name}" if in_head else f"backbone.{inner}"] = value
    return converted


def to_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_resnet`, in torchvision's form."""
    return {
        f"fc.{key.removeprefix('head.')}" if key.startswith("head.") else key.removeprefix("backbone."): value
        for key, value in state.items()
    }
