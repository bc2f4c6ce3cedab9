"""ViTDet's simple feature pyramid (arXiv 2203.16527, section 3 and appendix A.2): one map of a plain ViT -> all levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, ReadsTaps
from pvtctl.models.layers.patches import use_channels_last
from pvtctl.models.necks.fpn import Coarse, coarse_levels
from pvtctl.models.registry import COARSEST, Levels

STRIDE = 16
"""Of the map that all levels are made from."""
EPS = 1e-6


class SimplePyramid(nn.Module):
    """The map (B, C, H/16, W/16) after a ViT's last block -> maps (B, out_channels, h, w), finest first.

    Strides 4 and 8 are made by transposed 2x2 convolutions of stride 2, one or two, each halving the channels, with LayerNorm
    and GELU between; stride 32 by max pooling. Each map then passes a 1x1 and a 3x3 convolution with LayerNorm. `levels` and
    `extra` as in `pvtctl.models.necks.fpn.Fpn`, except that P6 is made from P5. Where patches are not of 16 pixels, the map
    is resized to stride 16 first (bilinear).

    Raises UsageError for backbones that are not plain ViTs.
    """

    def __init__(self, backbone: Backbone, *, extra: Coarse | None, levels: Levels, out_channels: int = 256) -> None:
        super().__init__()
        if not isinstance(backbone, ReadsTaps):
            raise UsageError(
                f"a simple pyramid is made from the one grid of a plain ViT, which {type(backbone).__name__} does not have",
                "leave model.head.neck out: its maps go into an FPN",
            )
        channels = backbone.tap_channels[self._last_block(backbone)]
        first, last = levels
        self.levels = levels
        self.out_channels = out_channels
        self.scales = nn.ModuleList(_scaled(channels, level) for level in range(first, min(last, COARSEST) + 1))
        self.outputs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(max(channels >> max(4 - level, 0), 1), out_channels, 1, bias=False),
                LayerNorm2d(out_channels, eps=EPS),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels, eps=EPS),
            )
            for level in range(first, min(last, COARSEST) + 1)
        )
        self.coarse = coarse_levels(extra, out_channels, out_channels, max(last - COARSEST, 0))
        use_channels_last(self)

    @staticmethod
    def _last_block(backbone: ReadsTaps) -> int | str:
        return list(backbone.tap_channels)[-1]

    def read(self, backbone: Backbone, images: Tensor) -> list[Tensor]:
        """The map after the last block, in a list."""
        assert isinstance(backbone, ReadsTaps)
        (tap,) = backbone.read_taps(images, [self._last_block(backbone)])
        size = (-(-images.shape[2] // STRIDE), -(-images.shape[3] // STRIDE))
        if tuple(tap.map.shape[2:]) == size:
            return [tap.map]
        return [F.interpolate(tap.map, size=size, mode="bilinear", align_corners=False)]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The map of `read` -> one for each level."""
        found = [output(scale(maps[-1])) for scale, output in zip(self.scales, self.outputs, strict=True)]
        if self.coarse is not None:
            found, _ = self.coarse(found, found, [])
        return found


def _scaled(channels: int, level: int) -> nn.Module:
    """Stride 16 -> stride 2^level."""
    match level:
        case 2:
            half = max(channels // 2, 1)
            return nn.Sequential(
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                LayerNorm2d(half, eps=EPS),
                nn.GELU(),
                nn.ConvTranspose2d(half, max(channels // 4, 1), 2, stride=2),
            )
        case 3:
            return nn.ConvTranspose2d(channels, max(channels // 2, 1), 2, stride=2)
        case 4:
            return nn.Identity()
        case _:
            return nn.MaxPool2d(2, ceil_mode=True)
