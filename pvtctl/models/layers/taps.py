"""Reading a transformer in the middle: what DPT's head asks of a backbone that has tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

TapName = int | str
"""A block, counted from 1; "R0" and "R1" are the first two convolution stages of a hybrid."""


class Tap(NamedTuple):
    """What leaves one block: the patches as a map (B, C, h, w), and apart from them the special tokens (B, S, C).

    S is 1 (class token) or 2 (class and distillation token); None for a convolution stage, which has none.
    """

    map: Tensor
    special: Tensor | None


@runtime_checkable
class ReadsTaps(Protocol):
    """A backbone whose single blocks can be read."""

    patch_size: int
    depth: int
    embed_dim: int
    tap_channels: dict[TapName, int]
    """Channels behind every name that `read_taps` knows, in the order of computation."""
    default_taps: tuple[TapName, ...]
    """Those of DPT, section 3.2; the backbone's own four maps are made of them too."""

    def read_taps(self, images: Tensor, taps: Sequence[TapName]) -> list[Tap]:
        """What leaves each of `taps`, which are in the order of computation; nothing behind the last is computed."""
        ...
