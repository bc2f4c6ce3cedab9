"""Parameter names of transformers' ResNet: of its classifier, of the bare model, and inside of DETR.

Sources: the state dicts of `ResNetForImageClassification`, `ResNetModel` and `DetrForObjectDetection` as transformers 5 saves them,
and `ResNetConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State

_BODY = "resnet."
_FIRST = ("embedder.embedder.convolution.weight", "encoder.stages.3.layers.0.layer.0.convolution.weight")


def resnet_names(body: str) -> tuple[tuple[str, str], ...]:
    """Pairs for `Rules` of a ResNet whose names begin with `body`."""
    return (
        (f"{body}embedder.embedder.convolution.", "backbone.conv1."),
        (f"{body}embedder.embedder.normalization.", "backbone.bn1."),
        *(
            (f"{body}encoder.stages.{stage}.layers.#.{theirs}.", f"backbone.layer{stage + 1}.#.{ours}.")
            for stage in range(4)
            for theirs, ours in (
                ("shortcut.convolution", "downsample.0"),
                ("shortcut.normalization", "downsample.1"),
                *((f"layer.{at}.convolution", f"conv{at + 1}") for at in range(3)),
                *((f"layer.{at}.normalization", f"bn{at + 1}") for at in range(3)),
            )
        ),
    )


_RULES = Rules(("classifier.1.", "head."), *resnet_names(_BODY))


def _to_ours(state: State) -> dict[str, Tensor]:
    parts = ("embedder.", "encoder.")  # a bare model's
    return _RULES.to_ours({f"{_BODY}{key}" if key.startswith(parts) else key: value for key, value in state.items()})


def to_transformers_resnet(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl ResNet for `ResNetForImageClassification`."""
    return _RULES.to_theirs(state)


RESNET = CheckpointLayout("transformers ResNet", ({f"{_BODY}{name}" for name in _FIRST}, set(_FIRST)), _to_ours)


def check_resnet(config: Mapping[str, Any]) -> None:
    """Raise UsageError for a `ResNetConfig` of strides and activations that show in no parameter and are not ours."""
    ours = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
    for key, value in ours.items():
        if (stated := config.get(key, value)) != value:
            raise UsageError(
                f"config.json: a ResNet with {key} {stated!r}: its outputs would be wrong here", f"ours has {value!r}"
            )
