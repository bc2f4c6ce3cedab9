"""Trans2Seg."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pvtctl.models.heads.specs.shapes import Dropout, Width
from pvtctl.models.registry import SEGMENTATION, HeadMark, HeadOptions, HeadSpec, State, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

PAPER_SIDE = 512
"""Side of the papers' training images, for which its cells are counted."""
_CLASSES, _ANSWERS = "head.cls_embed", "head.answers.fc_q.weight"


class Trans2SegOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0."""
    embed_dim: Width | None = None
    """Unset: 256."""
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    """Layers of the encoder, and of the decoder; unset: 4."""
    num_heads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Unset: 8."""


def _build(backbone: Backbone, options: Trans2SegOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.trans2seg import Trans2Seg

    grid = PAPER_SIDE // backbone.feature_strides[-1]
    return None, Trans2Seg(backbone.feature_channels, target.num_classes, grid=grid, **options.said())


def _options_of(state: State) -> dict[str, Any]:
    width, channels = state[_CLASSES].shape[-1], state["head.lay1.depthwise.weight"].shape[0]
    return {
        "embed_dim": width,
        "depth": sum(name.startswith("head.encoder.") and name.endswith(".norm1.weight") for name in state),
        "num_heads": channels - width,
    }


def _stride_of(state: State) -> int:
    return PAPER_SIDE // math.isqrt(state["head.pos_embed"].shape[1] - 1)


TRANS2SEG = HeadSpec(
    name="trans2seg",
    tasks=(SEGMENTATION,),
    title="Trans2Seg",
    Options=Trans2SegOptions,
    build=_build,
    marks=(HeadMark(SEGMENTATION, frozenset({_ANSWERS, _CLASSES}), lambda state: int(state[_CLASSES].shape[1])),),
    class_tables={_CLASSES: "tokens"},
    options_of=_options_of,
    stride_of=_stride_of,
    unpublished="is a model with trans2seg, whose original has further, unused layers",
    map_per_class=True,
    recipes={SEGMENTATION: "ade20k_trans2seg"},
    sizes={SEGMENTATION: 512},
    bottleneck_stride=16,
    counted=frozenset({"bias", "batch_norm"}),  # PVT v1, Table 7
    parts={
        "embed": "encoder",
        "encoder": "encoder",
        "decoder": "decoder",
        "answers": "decoder",
        **dict.fromkeys(("conv_c1", "lay1", "lay2", "lay3", "pred"), "class_maps"),
    },
)
