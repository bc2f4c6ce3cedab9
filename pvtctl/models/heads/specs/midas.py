"""MiDaS's decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.models.heads.specs.shapes import Width, class_counter, decoder_width
from pvtctl.models.registry import DEPTH, HeadMark, HeadOptions, HeadSpec, ScaleShift, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone


class MidasOptions(HeadOptions):
    width: Width | None = None
    """Channels of the decoder; unset: 256."""
    scale_shift: ScaleShift | None = None
    """metres = 1 / (scale x + shift) of the network's output; unset: inverse depth of an unknown scale."""


def _build(backbone: Backbone, options: MidasOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.midas import Midas

    return None, Midas(backbone.feature_channels, **options.said())


_LAST = "head.output.last.weight"
MIDAS = HeadSpec(
    name="midas",
    tasks=(DEPTH,),
    title="MiDaS",
    Options=MidasOptions,
    build=_build,
    marks=(HeadMark(DEPTH, frozenset({"head.decoder.narrow.0.weight", _LAST}), class_counter(_LAST)),),
    options_of=decoder_width,
    unpublished="is pvtctl's MiDaS, which no other project publishes in one layout",
    recipes={DEPTH: "dpt_backbones"},
    sizes={DEPTH: 384},
    parts={"decoder": "decoder", "output": "output"},
)
