"""DeepLabV3+ (Chen et al., arXiv 1802.02611): dilated convolutions at several rates, refined by a finer map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.heads.base import DenseHead, classifier_of_cells, dropout_of_channels
from pvtctl.models.layers.conv_norm import ConvNorm, SeparableConvNorm

LOW_LEVEL, AUXILIARY = 48, 256
"""Channels of the finest map's branch, and of the auxiliary head."""


class DeepLabV3Plus(DenseHead):
    """Four maps of `channels` each, finest first, any sizes -> logits (B, K, h, w) of the finest map's size.

    The last map passes a 1x1 convolution, three separable ones dilated by `rates(stride)` and the mean over the whole map;
    a `projection` x `projection` convolution of all five is resized to the finest map, concatenated with 48 channels of
    that, and passes two separable convolutions, dropout of whole channels and a 1x1 one. Each convolution has batch norm
    and ReLU.

    Width 256 and projection 1 with `resnet50s` have the parameters and multiply-adds of PVT v1 Table 7 (26.8 M; the
    assembly is derived from those counts); mmsegmentation's has width 512 and projection 3 with `resnet50c`.

    `stride` is that of the last map. With `auxiliary_weight` above 0 there is a fully convolutional auxiliary head on the
    third map, as in mmsegmentation (there 0.4). Raises UsageError for options out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        stride: int = 32,
        dropout: float = 0.1,
        width: int = 256,
        projection: int = 1,
        auxiliary_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if projection not in (1, 3):
            raise UsageError(f"deeplabv3plus has no projection of {projection}x{projection}", "1 or 3 (mmsegmentation)")
        if auxiliary_weight < 0:
            raise UsageError(
                f"an auxiliary weight of {auxiliary_weight:g} is below 0", "0 leaves the head out, 0.4 is usual"
            )
        self.auxiliary_weight = auxiliary_weight
        self.pool = ConvNorm(channels[-1], width)
        self.branches = nn.ModuleList([ConvNorm(channels[-1], width)])
        self.branches.extend(SeparableConvNorm(channels[-1], width, dilation=rate) for rate in rates(stride))
        self.projection = ConvNorm(5 * width, width, projection)
        self.low_level = ConvNorm(channels[0], LOW_LEVEL)
        self.decoder = nn.Sequential(SeparableConvNorm(width + LOW_LEVEL, width), SeparableConvNorm(width, width))
        self.dropout = dropout_of_channels(dropout)
        self.classifier = classifier_of_cells(width, num_classes)
        self.auxiliary: nn.Sequential | None = None
        if auxiliary_weight > 0:
            self.auxiliary = nn.Sequential(
                ConvNorm(channels[2], AUXILIARY, 3),
                dropout_of_channels(dropout),
                classifier_of_cells(AUXILIARY, num_classes),
            )

    def forward(self, features: Sequence[Tensor], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        others = (self.auxiliary(features[2]),) if auxiliary and self.auxiliary is not None else ()
        x = features[-1]
        pooled = self.pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        x = self.projection(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        fine = self.low_level(features[0])
        x = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        x = self.decoder(torch.cat([x, fine], dim=1))
        return self.classifier(self.dropout(x)), others


def rates(stride: int) -> tuple[int, int, int]:
    """Dilations for a map of that stride: 12, 24 and 36 at 8, and so on, the same distances in pixels of the image."""
    return 96 // stride, 192 // stride, 288 // stride
