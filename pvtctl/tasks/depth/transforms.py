"""Transforms of images with depth to network inputs: DPT's sizes, resampled like OpenCV."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvtctl.data.transforms import nearest_pixels, resample
from pvtctl.models.structures import ImageSize
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.segmentation.transforms import photometric


def resize_depth(depth: Tensor, size: ImageSize) -> Tensor:
    """float32 (h, w) -> `size`, nearest by pixel centres: no mixing across holes and edges."""
    if depth.shape == size:
        return depth
    rows, columns = (nearest_pixels(old, new) for old, new in zip(depth.shape, size, strict=True))
    return torch.from_numpy(np.take(np.take(depth.numpy(), columns, 1), rows, 0))


def minimal_size(size: ImageSize, wanted: ImageSize, multiple: int, ratio: float = 1.0) -> ImageSize:
    """DPT's test (height, width) for an image of `size`: of the two factors that bring its height or width to that
    of `wanted`, the one nearer to 1, times `ratio`; both sides rounded to a multiple, at least one."""
    factor = min((want / side for want, side in zip(wanted, size, strict=True)), key=lambda factor: abs(1 - factor))
    height, width = (max(1, round(side * factor * ratio / multiple)) * multiple for side in size)
    return height, width


@dataclass(frozen=True)
class DepthTransform:
    """Sizes and augmentation of a recipe's `data.depth`."""

    settings: DepthData

    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Minimal resize to cover `size`, random crop, flip, colour jitter; always the same number of draws.

        Crops first, then resizes, so that only the used part is resampled.
        """
        down, right, flipping, *colours = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
        height, width = pixels.shape[-2:]
        factor = max(self.settings.size[0] / height, self.settings.size[1] / width)
        rows, columns = (
            min(side, math.ceil(want / factor)) for side, want in zip((height, width), self.settings.size, strict=True)
        )
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        pixels = pixels[:, top : top + rows, left : left + columns]
        pixels = resample(pixels, self.settings.size, "bicubic", antialias=False)
        target = resize_depth(target[top : top + rows, left : left + columns], self.settings.size)
        if flipping < self.settings.hflip:
            pixels, target = pixels.flip(-1), target.flip(-1)
        if self.settings.photometric:
            pixels = photometric(pixels, colours)
        return pixels, target.contiguous()

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        """DPT's minimal resize: the factor of the side that changes least, the aspect is kept up to `multiple`."""
        own = self.settings
        size = minimal_size((pixels.shape[-2], pixels.shape[-1]), own.test_size, own.multiple, ratio)
        return resample(pixels, size, "bicubic", antialias=False)
