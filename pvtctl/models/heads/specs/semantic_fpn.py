"""Semantic FPN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.models.heads.specs.shapes import PAPER_WIDTH, Dropout, Width, class_counter, fpn_width
from pvtctl.models.registry import SEGMENTATION, HeadMark, HeadOptions, HeadSpec, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone


class SemanticFpnOptions(HeadOptions):
    dropout: Dropout | None = None
    """Unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of the FPN; the head has half; unset: 256."""


def _build(backbone: Backbone, options: SemanticFpnOptions, target: Target) -> tuple[nn.Module, nn.Module]:
    from pvtctl.models.heads.semantic_fpn import SemanticFpn
    from pvtctl.models.necks.fpn import Fpn

    width = options.width or PAPER_WIDTH
    neck = Fpn(backbone.feature_channels, extra=None, start_level=0, out_channels=width)
    own = options.said() | {"width": width // 2}
    return neck, SemanticFpn(target.num_classes, in_channels=width, **own)


SEMANTIC_FPN = HeadSpec(
    name="semantic_fpn",
    tasks=(SEGMENTATION,),
    title="Semantic FPN",
    Options=SemanticFpnOptions,
    build=_build,
    marks=(
        HeadMark(
            SEGMENTATION,
            frozenset({"head.scale_heads.0.0.conv.weight", "head.classifier.weight"}),
            class_counter("head.classifier.weight"),
        ),
    ),
    class_tables={"head.classifier": "plain"},
    options_of=fpn_width,
    publisher="mmsegmentation",
    recipes={SEGMENTATION: "ade20k_semantic_fpn"},
    sizes={SEGMENTATION: 512},
    counts_batch_norm=False,
    parts={"scale_heads": "levels", "classifier": "classifier"},
)
