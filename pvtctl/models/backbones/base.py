"""What every backbone is."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.variants import STRIDES, Four

MIN_SIDE = 32


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> four maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32.

    H and W are any sizes from 32 up; odd ones are rounded as the family's original does (PVT v1 and ViT down, PVT v2 and
    ResNet up). `feature_channels` and `feature_strides` say what a head gets.
    """

    feature_strides: Four = STRIDES

    def __init__(self, feature_channels: Four) -> None:
        super().__init__()
        self.feature_channels = feature_channels
        self.num_features = feature_channels[-1]
        """Width of what `pooled` returns."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16, 32."""
        raise NotImplementedError

    def pooled(self, images: Tensor) -> Tensor:
        """(B, num_features) for a classifier: the mean over the last map, unless the family has a class token."""
        return self.forward(images)[-1].mean((2, 3))

    @property
    def num_layers(self) -> int:
        """Depth of what follows the backbone, for layer-wise learning rates: one more than its last layer's."""
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Depth of the parameter `name`: 0 for the first embedding or stem, then one a block."""
        raise NotImplementedError

    def begins_as_identity(self, name: str) -> bool:
        """Whether the parameter `name` is of a part that changes nothing until it is trained (context blocks).

        A checkpoint without such parts holds the whole of the backbone all the same.
        """
        return False

    def set_activation_checkpointing(self, on: bool) -> None:
        """Trade time for memory in training: blocks compute their activations again in the backward pass.

        Raises UsageError where the family cannot.
        """
        if on:
            raise UsageError(
                f"activation checkpointing is not available for {type(self).__name__} backbones",
                "switch it off, or use a PVT, DeiT or ViT",
            )


def check_images(images: Tensor) -> None:
    """Raise UsageError unless `images` is (B, 3, H, W) with both sides of at least 32 pixels."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"images have the shape {tuple(images.shape)}", "a backbone takes (batch, 3, height, width)")
    if images.shape[2] < MIN_SIDE or images.shape[3] < MIN_SIDE:
        height, width = images.shape[2:]
        raise UsageError(f"images of {height}x{width} are too small", f"both sides must be at least {MIN_SIDE} pixels")


class PyramidStage(nn.Module):
    """One stage of a PyramidTransformer."""

    checkpointing = False


class PyramidTransformer(Backbone):
    """The part that PVT v1 and v2 share: four `stages`, each with a `patch_embed` and `blocks`."""

    stages: nn.ModuleList
    depths: Four
    checkpointing = False

    @property
    def num_layers(self) -> int:
        return sum(self.depths) + 1

    def layer_of(self, name: str) -> int:
        """A stage's embedding and position table go with its first block, save those of stage 1, which are layer 0."""
        part = name.split(".")
        if part[0] == "class_token":
            return sum(self.depths[:3]) + 1
        if part[0] == "norm":
            return sum(self.depths)
        stage = int(part[1])
        before = sum(self.depths[:stage])
        match part[2]:
            case "blocks":
                return before + int(part[3]) + 1
            case "norm":
                return before + self.depths[stage]
            case _:
                return 0 if stage == 0 else before + 1

    def set_activation_checkpointing(self, on: bool) -> None:
        for stage in self.stages:
            cast("PyramidStage", stage).checkpointing = on
