"""A backbone of few operations, for what lies above it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtctl.models.backbones import Backbone


class Tiny(Backbone):
    """Four convolutions."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__((8, 8, 16, 16))
        sizes = zip((3, 8, 8, 16), self.feature_channels, (4, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in sizes)
        self.scale = scale

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(torch.relu(stage(maps[-1])) * self.scale)
        return maps[1:]
