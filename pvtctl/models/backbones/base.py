"""Base classes of all backbones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.freezing import hold
from pvtctl.models.parts import Parts
from pvtctl.models.variants import MIN_SIDE, STRIDES, Four


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> four maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32.

    H and W may have any size from 32; odd ones are rounded as in the original (PVT v1 and ViT down, PVT v2 and ResNet
    up). `feature_channels` and `feature_strides` describe the maps.
    """

    feature_strides: Four = STRIDES
    parts: Parts = MappingProxyType({})
    """Stem and stages by the names in them; `build_backbone` sets those of the spec."""
    frozen: tuple[str, ...] = ()
    """What of them is not trained: see `pvtctl.models.backbones.freezing.freeze`."""
    built_as: str = ""
    """The name it was built by, with its options; empty for one made otherwise."""

    def __init__(self, feature_channels: Four) -> None:
        super().__init__()
        self.feature_channels = feature_channels
        self.num_features = feature_channels[-1]
        """Width of the output of `pooled`."""

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but frozen parts stay in evaluation mode."""
        super().train(mode)
        hold(self)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return four maps, strides 4, 8, 16, 32."""
        raise NotImplementedError

    def pooled(self, images: Tensor) -> Tensor:
        """Features (B, num_features) for a classifier: the mean over the last map, unless the family has a class token."""
        return self.forward(images)[-1].mean((2, 3))

    def prepare(self, size: tuple[int, int]) -> list[str]:
        """Make ready for images of `size` (height, width); what users must know about its maps at that size, as sentences."""
        return []

    @property
    def num_layers(self) -> int:
        """Depth of the layers after the backbone, for layer-wise learning rates: its last layer's plus one."""
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Depth of the parameter `name`: 0 for the first embedding or stem, then one per block."""
        raise NotImplementedError

    def begins_as_identity(self, name: str) -> bool:
        """Whether the parameter `name` belongs to a part that is the identity before training (context blocks).

        A checkpoint without such parts still counts as complete.
        """
        return False

    def set_activation_checkpointing(self, on: bool) -> None:
        """Trade time for memory in training: blocks recompute their activations in the backward pass.

        Raises UsageError where the family does not support it.
        """
        if on:
            raise UsageError(
                f"activation checkpointing is not available for {type(self).__name__} backbones",
                "switch it off, or use a PVT, DeiT or ViT",
            )


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in eval mode; every module's own mode is restored afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def check_images(images: Tensor, least: int = MIN_SIDE) -> None:
    """Raise UsageError unless `images` is (B, 3, H, W) with both sides of at least `least` pixels."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images have the shape {tuple(images.shape)}", "a backbone takes (batch, 3, height, width)")
    if images.shape[2] < least or images.shape[3] < least:
        height, width = images.shape[2:]
        raise UsageError(f"images of {height}x{width} are too small", f"both sides must be at least {least} pixels")


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
