"""Semantic FPN (Kirillov et al., arXiv 1901.02446): the maps of a feature pyramid, upsampled to the finest and added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.heads.base import DenseHead, classifier_of_cells, dropout_of_channels
from pvtctl.models.layers.conv_norm import ConvNorm


class SemanticFpn(DenseHead):
    """Four maps (or `levels`) of `in_channels` each, finest first, any sizes -> logits (B, K, h, w) of the finest's size.

    A map is upsampled one level at a time, each time by a 3x3 convolution, batch norm, ReLU and a bilinear resize to the
    size of the next finer map: 1, 1, 2 and 3 times (the finest has its convolution too). The sum passes dropout of whole
    channels and a 1x1 convolution. Sizes from PVT v1's segmentation code: 256 and 128 channels; with odd sides that code
    doubles the coarser map beyond the finer one before the resize.
    """

    def __init__(
        self, num_classes: int, *, dropout: float = 0.1, in_channels: int = 256, width: int = 128, levels: int = 4
    ) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList(
            nn.ModuleList(ConvNorm(in_channels if at == 0 else width, width, 3) for at in range(steps))
            for steps in (max(level, 1) for level in range(levels))
        )
        self.dropout = dropout_of_channels(dropout)
        self.classifier = classifier_of_cells(width, num_classes)

    def forward(self, features: Sequence[Tensor], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        total: Tensor | None = None
        for level, steps in enumerate(self.scale_heads):
            x = features[level]
            for at, step in enumerate(cast("nn.ModuleList", steps)):
                x = step(x)
                size = features[max(level - 1 - at, 0)].shape[-2:]
                if x.shape[-2:] != size:
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        return self.classifier(self.dropout(total)), ()
