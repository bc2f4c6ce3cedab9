"""Options and class counts that several heads infer from a state dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from pvtctl.models.registry import State

Width = Annotated[int, Field(ge=8, le=4096)]
Dropout = Annotated[float, Field(ge=0.0, le=1.0)]
PAPER_WIDTH = 256


def class_counter(name: str, *, background: int = 0) -> Callable[[State], int]:
    """Return a function that counts the classes of a parameter with one row per class and `background` more."""
    return lambda state: int(state[name].shape[0]) - background if name in state else 0


def fpn_width(state: State) -> dict[str, Any]:
    """`width` of a feature pyramid, if not the papers' 256."""
    return _unless_papers("neck.inner_blocks.0.0.weight", state)


def decoder_width(state: State) -> dict[str, Any]:
    """`width` of the decoder of DPT and MiDaS, if not the originals' 256."""
    return _unless_papers("head.decoder.narrow.0.weight", state)


def _unless_papers(name: str, state: State) -> dict[str, Any]:
    weight = state.get(name)
    return {} if weight is None or weight.shape[0] == PAPER_WIDTH else {"width": int(weight.shape[0])}
