"""DPT, for segmentation and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from pvtctl.models.heads.specs.shapes import Dropout, Width, class_counter, decoder_width
from pvtctl.models.registry import DEPTH, SEGMENTATION, HeadMark, HeadOptions, HeadSpec, ScaleShift, State, Target

if TYPE_CHECKING:
    from torch import nn

    from pvtctl.models.backbones.base import Backbone

_MIX, _LAST = "head.decoder.fusions.0.mix.weight", "head.output.last.weight"
_READS_TOKENS = "head.reassemble.3.project.weight"
"""Present in DPT on a ViT, not on a pyramid."""


class DptOptions(HeadOptions):
    dropout: Dropout | None = None
    """Segmentation; unset: 0.1, the papers'."""
    width: Width | None = None
    """Channels of the decoder; unset: 256."""
    auxiliary_weight: Annotated[float, Field(ge=0)] | None = None
    """Segmentation: weight of the auxiliary head's loss, 0 leaves it out; unset: 0.2."""
    readout: Literal["ignore", "add", "project"] | None = None
    """With a class token: how it is used; unset: project."""
    taps: tuple[str | int, ...] | None = None
    """On a ViT: four layers that it reads, counted from 1 (R0, R1: stages of the hybrid's ResNet); unset: DPT's."""
    scale_shift: ScaleShift | None = None
    """Depth: metres = 1 / (scale x + shift) of the network's output; unset: inverse depth of an unknown scale."""


def _build(backbone: Backbone, options: DptOptions, target: Target) -> tuple[None, nn.Module]:
    from pvtctl.models.heads.dpt import Dpt

    task = cast("Literal['segmentation', 'depth']", target.task)
    return None, Dpt(backbone, task=task, num_classes=target.num_classes, **options.said())


def _options_of(state: State) -> dict[str, Any]:
    project = {"readout": "project"} if any(name.endswith(".read.weight") for name in state) else {}
    return project | decoder_width(state)


def _unlike(head: Any, options: Mapping[str, Any], state: State) -> tuple[str, str, str] | None:
    """Difference in taps or readout between a file and this head: "ignore" and "add" have no parameters."""
    if not head.taps:
        return None
    readouts = [step.readout for step in head.reassemble if hasattr(step, "readout")]
    for option, own in (("taps", head.taps), ("readout", readouts[-1])):
        stated, ours = options.get(option), _plain(own)
        if stated is None and ours == "project" and _READS_TOKENS in state:
            stated = "ignore or add"  # the file does not say which; "project" would have parameters
        if stated is not None and _plain(stated) != ours:
            return option, _plain(stated), ours
    return None


def _plain(value: Any) -> str:
    """An option's value as in recipes: `project`, `3, 6, 9, 12`."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


DPT = HeadSpec(
    name="dpt",
    tasks=(SEGMENTATION, DEPTH),
    title="DPT",
    Options=DptOptions,
    build=_build,
    marks=(
        HeadMark(SEGMENTATION, frozenset({_MIX, _LAST, "head.output.first.conv.weight"}), class_counter(_LAST)),
        HeadMark(DEPTH, frozenset({_MIX, _LAST, "head.output.second.weight"}), class_counter(_LAST)),
    ),
    class_tables={"head.output.last": "plain", "head.auxiliary.last": "plain"},
    options_of=_options_of,
    unlike=_unlike,
    unpublished="is a model with dpt, whose original has further, unused layers",
    token_options=("readout", "taps"),
    only_for={"dropout": SEGMENTATION, "auxiliary_weight": SEGMENTATION},
    recipes={SEGMENTATION: "dpt_ade20k", DEPTH: "dpt_nyu"},
    sizes={SEGMENTATION: 480, DEPTH: 384},
    parts={"decoder": "decoder", "reassemble": "reassemble", "output": "output", "auxiliary": "auxiliary"},
)
