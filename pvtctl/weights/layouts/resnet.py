"""Parameter names of torchvision's ResNets and ResNeXts (timm's are the same), and pvtctl's.

Deep stems: timm's and Trans2Seg's have pvtctl's names, `conv1.0` to `conv1.6` and `bn1`; OpenMMLab's ResNetV1c has one
sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def is_resnet(keys: set[str]) -> bool:
    """Whether these are torchvision's names: stem `conv1`, possibly deep, stages `layer1`..`layer4`."""
    stems = ({"conv1.weight", "bn1.weight"}, {"conv1.0.weight", "bn1.weight"}, {"stem.0.weight", "stem.7.weight"})
    return any(stem <= keys for stem in stems) and {"layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= keys


def from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename to pvtctl's names: OpenMMLab's deep `stem` is renamed, other backbone names stay, `fc` (or `head.fc`)
    becomes `head`.
    """
    converted = {}
    for key, value in state.items():
        name = key.removeprefix("head.").removeprefix("fc.")
        in_head = key.startswith(("fc.", "head.")) and name in ("weight", "bias")
        inner = re.sub(r"^stem\.", "conv1.", re.sub(r"^stem\.7\.", "bn1.", key))
        converted[f"head.{name}" if in_head else f"backbone.{inner}"] = value
    return converted


def to_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_resnet`, with torchvision's names."""
    return {
        f"fc.{key.removeprefix('head.')}" if key.startswith("head.") else key.removeprefix("backbone."): value
        for key, value in state.items()
    }
