"""Intermediate outputs of transformer backbones, as DPT's head uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

TapName = int | str
"""A block, counted from 1; "R0" and "R1" are the first two convolution stages of a hybrid."""


class Tap(NamedTuple):
    """The output of one block: the patches as a map (B, C, h, w), and separately the special tokens (B, S, C).

    S is 1 (class token) or 2 (class and distillation token); None for a convolution stage, which has none.
    """

    map: Tensor
    special: Tensor | None


@runtime_checkable
class ReadsTaps(Protocol):
    """A backbone with readable single blocks."""

    patch_size: int
    depth: int
    embed_dim: int
    tap_channels: dict[TapName, int]
    """Channels of every name that `read_taps` accepts, in the order of computation."""
    default_taps: tuple[TapName, ...]
    """Those of DPT, section 3.2; the backbone's own four maps are also made from them."""

    def read_taps(self, images: Tensor, taps: Sequence[TapName]) -> list[Tap]:
        """The outputs of `taps`, given in the order of computation; nothing after the last is computed."""
        ...
