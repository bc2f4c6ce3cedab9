"""The global context block of GCNet: a summary of the whole map is added to every position."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class ContextBlock(nn.Module):
    """Maps (B, C, H, W) -> the same shape.

    A 1x1 convolution scores the positions; the map's mean under the softmax of the scores goes through a bottleneck of
    `ratio` C channels (1x1, LayerNorm, ReLU, 1x1) and is added to each position. The last layer starts at zero: an
    untrained block is the identity. Names are the original's, to load its checkpoints.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = int(channels * ratio)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1),
            nn.LayerNorm([inner, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1),
        )
        nn.init.kaiming_normal_(self.conv_mask.weight, nonlinearity="relu")
        last = cast("nn.Conv2d", self.channel_add_conv[3])
        for start in (self.conv_mask.bias, last.weight, last.bias):
            nn.init.zeros_(cast("Tensor", start))

    def weights(self, x: Tensor) -> Tensor:
        """Weight of each position of (B, C, H, W) in the summary: (B, 1, HW), rows that sum to 1."""
        return cast("Tensor", self.conv_mask(x).flatten(2).softmax(-1))

    def forward(self, x: Tensor) -> Tensor:
        context = torch.einsum("bcn,bqn->bcq", x.flatten(2), self.weights(x)).unsqueeze(-1)  # (B, C, 1, 1)
        return cast("Tensor", x + self.channel_add_conv(context))
