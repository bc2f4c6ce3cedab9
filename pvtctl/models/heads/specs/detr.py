"""DETR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pvtctl.errors import UsageError
from pvtctl.models.heads.specs.shapes import Dropout, class_counter
from pvtctl.models.registry import DETECTION, HeadMark, HeadOptions, HeadSpec, State, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

_QUERIES = "head.query_embed.weight"


class DetrOptions(HeadOptions):
    num_queries: Annotated[int, Field(ge=1, le=10_000)] = 100
    dropout: Dropout | None = None
    """Unset: 0.1."""


def _build(backbone: Backbone, options: DetrOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.detr import Detr

    if target.conventions != "papers":
        raise UsageError("torchvision has no DETR", "leave conventions out")
    return None, Detr(backbone.feature_channels[-1], target.num_classes, **options.said())


def _options_of(state: State) -> dict[str, Any]:
    return {"num_queries": int(state[_QUERIES].shape[0])} if _QUERIES in state else {}


DETR = HeadSpec(
    name="detr",
    tasks=(DETECTION,),
    title="DETR",
    Options=DetrOptions,
    build=_build,
    marks=(
        HeadMark(
            DETECTION,
            frozenset({"head.class_embed.weight"}),
            class_counter("head.class_embed.weight", background=1),
            beside=frozenset({_QUERIES}),
        ),
    ),
    class_tables={"head.class_embed": "background"},
    options_of=_options_of,
    publisher="DETR",
    has_nms=False,
    candidates="100 queries an image",
    recipes={DETECTION: "coco_detr_50e"},
    parts={"transformer.encoder": "encoder", "transformer.decoder": "decoder"},
)
