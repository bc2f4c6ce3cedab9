"""The decoder of MiDaS (Ranftl et al., arXiv 1907.01341), DPT's own baseline (Tables 1, 8 and 9), which DPT uses too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.heads.base import DenseHead
from pvtctl.models.layers.conv_norm import ConvNorm
from pvtctl.models.layers.patches import use_channels_last

NEAREST = 1e-3
"""Metres; a smaller depth is given as this."""
WIDTH = 256
"""Channels of every map in the original decoders."""


class RefinementDecoder(nn.Module):
    """Four maps of strides 4, 8, 16, 32 -> the outputs of the four fusions, finest first: strides 2, 4, 8, 16.

    Each map gets `width` channels by a 3x3 convolution without bias. The originals have another residual unit in the
    coarsest fusion and never use it; it is left out here.
    """

    def __init__(
        self, channels: Sequence[int], *, norm: bool, mixing: bool, rectified: bool = False, width: int = WIDTH
    ) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Conv2d(number, width, 3, padding=1, bias=False) for number in channels)
        self.fusions = nn.ModuleList(
            Fusion(norm=norm, mixing=mixing, rectified=rectified, coarsest=level == 3, width=width)
            for level in range(4)
        )
        use_channels_last(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        narrowed = [conv(x) for conv, x in zip(self.narrow, maps, strict=True)]
        height, width = narrowed[0].shape[2:]
        sizes = [(2 * height, 2 * width), *((x.shape[2], x.shape[3]) for x in narrowed[:-1])]
        found: list[Tensor] = []
        for level in (3, 2, 1, 0):
            coarser = found[-1] if found else None
            found.append(self.fusions[level](narrowed[level], coarser, sizes[level]))
        return found[::-1]


class Fusion(nn.Module):
    """A map, through a residual unit, plus the coarser fusion's output; a second unit; a bilinear resize with aligned
    corners; with `mixing` a 1x1 convolution (DPT section 3.1).

    The resize is a mean of neighbours with weights that sum to 1, so the convolution may come before it, at a quarter of
    the cost: the result is the same but for rounding.
    """

    def __init__(self, *, norm: bool, mixing: bool, rectified: bool, coarsest: bool, width: int = WIDTH) -> None:
        super().__init__()
        self.skip = None if coarsest else ResidualUnit(width, norm=norm, rectified=rectified)
        self.unit = ResidualUnit(width, norm=norm, rectified=rectified)
        self.mix = nn.Conv2d(width, width, 1) if mixing else None

    def forward(self, x: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """`x` (B, width, h, w), `coarser` of the same shape (None at the coarsest) -> (B, width, *size)."""
        if self.skip is not None:
            x = self.skip(x) + coarser
        x = self.unit(x)
        if self.mix is not None:
            x = self.mix(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """x + two times (ReLU, 3x3 convolution), the convolutions with batch norm instead of bias if `norm`.

    `rectified`: the shortcut starts after the first ReLU, as in MiDaS's code (by an in-place ReLU).
    """

    def __init__(self, width: int, *, norm: bool, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        if norm:
            self.first: nn.Module = ConvNorm(width, width, 3)
            self.second: nn.Module = ConvNorm(width, width, 3, relu=False)
        else:
            self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True))
            self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        start = F.relu(x)
        return cast("Tensor", self.second(self.first(start)) + (start if self.rectified else x))


class DepthOutput(nn.Module):
    """(B, width, h, w) of stride 2 -> inverse depth (B, 1, 2h, 2w), never below 0.

    The last convolution is initialised without negative values: its input has none either, so an untrained head's output
    is above 0. With torch's default about a third of untrained heads output 0 in all pixels, where the last ReLU has no
    gradient, and never learn.

    `factor`: of the resize from the decoder's map, where the image is not twice as large. `max_depth`: metres are
    sigmoid x `max_depth` instead, and the output is 1 / metres.
    """

    def __init__(
        self, *, align_corners: bool, width: int = WIDTH, factor: float = 2.0, max_depth: float | None = None
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.factor = factor
        self.max_depth = max_depth
        self.first = nn.Conv2d(width, width // 2, 3, padding=1)
        self.second = nn.Conv2d(width // 2, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 1, 1)
        use_channels_last(self)
        if max_depth is not None:
            return
        with torch.no_grad():
            for values in self.last.parameters():
                values.abs_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.first(x), scale_factor=self.factor, mode="bilinear", align_corners=self.align_corners)
        x = self.last(F.relu(self.second(x), inplace=True))
        if self.max_depth is None:
            return F.relu(x)
        return 1 / (self.max_depth * x.float().sigmoid()).clamp(min=NEAREST)


class Midas(DenseHead):
    """Four maps of `channels`, strides 4 to 32 -> inverse depth (B, 1, H, W) of an unknown scale, never below 0.

    DPT's decoder without batch norms and without the 1x1 convolutions of its fusions. As in MiDaS's code the shortcuts of
    the residual units start after their first ReLU, and the last resize does not align corners.
    """

    upsampling = "bicubic"

    def __init__(self, channels: Sequence[int], *, width: int = WIDTH) -> None:
        super().__init__()
        self.decoder = RefinementDecoder(channels, norm=False, mixing=False, rectified=True, width=width)
        self.output = DepthOutput(align_corners=False, width=width)

    def forward(self, features: Sequence[Tensor], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        return self.output(self.decoder(features)[0]), ()
