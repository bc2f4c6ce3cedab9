"""DeepLabV3+."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pvtctl.models.heads.specs.shapes import Dropout, Width, class_counter
from pvtctl.models.registry import SEGMENTATION, HeadMark, HeadOptions, HeadSpec, State, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone


class DeepLabV3PlusOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of its pyramid pooling; unset: 256."""
    projection: Literal[1, 3] | None = None
    """Kernel size of the convolution that joins its pyramid pooling; unset: 1. mmsegmentation: 3, width 512."""
    auxiliary_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of the auxiliary head's loss, 0 leaves it out; unset: 0."""


def _build(backbone: Backbone, options: DeepLabV3PlusOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.deeplabv3plus import DeepLabV3Plus

    stride = backbone.feature_strides[-1]
    return None, DeepLabV3Plus(backbone.feature_channels, target.num_classes, stride=stride, **options.said())


def _options_of(state: State) -> dict[str, Any]:
    projection = state["head.projection.conv.weight"]
    return {"width": projection.shape[0], "projection": projection.shape[-1]}


DEEPLABV3PLUS = HeadSpec(
    name="deeplabv3plus",
    tasks=(SEGMENTATION,),
    title="DeepLabV3+",
    Options=DeepLabV3PlusOptions,
    build=_build,
    marks=(
        HeadMark(
            SEGMENTATION,
            frozenset({"head.low_level.conv.weight", "head.classifier.weight"}),
            class_counter("head.classifier.weight"),
        ),
    ),
    class_tables={"head.classifier": "plain", "head.auxiliary.2": "plain"},
    options_of=_options_of,
    publisher="mmsegmentation",
    recipes={SEGMENTATION: "ade20k_trans2seg"},
    sizes={SEGMENTATION: 512},
    bottleneck_stride=16,
    counted=frozenset({"bias", "batch_norm"}),  # PVT v1, Table 7
    parts={
        "classifier": "classifier",
        "pool": "pyramid_pooling",
        "branches": "pyramid_pooling",
        "projection": "pyramid_pooling",
        "decoder": "decoder",
        "auxiliary": "auxiliary",
    },
)
