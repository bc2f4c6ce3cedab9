"""Transforms of images with label maps to network inputs, as in mmsegmentation's recipes.

Training: random resize, random crop not filled by one class, photometric distortion, flip, padding. Images are resized
bilinearly without antialiasing, like OpenCV in the code of the published models. Labels are those of the
nearest pixel by pixel centres, consistent with the resized image; OpenCV's nearest rounds towards the top left,
up to half a pixel away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pvtctl.data.images import pixels_of
from pvtctl.data.sizes import padded_side, resized_size
from pvtctl.data.transforms import nearest_pixels, resample
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.structures import IGNORE_LABEL, ImageSize
from pvtctl.tasks.segmentation.settings import SegmentationData

CROP_TRIES = 10
"""Maximum number of crops drawn while one class fills too much."""

BRIGHTNESS = 32
"""Largest change, in levels of 255."""
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 0.1
"""Largest change, in turns: 18 of OpenCV's 180 steps."""


def resize_labels(labels: Tensor, size: ImageSize) -> Tensor:
    """uint8 (h, w) -> `size`: the label of the nearest pixel, by pixel centres."""
    if labels.shape == tuple(size):
        return labels
    rows, columns = (nearest_pixels(old, new) for old, new in zip(labels.shape, size, strict=True))
    return torch.from_numpy(np.take(np.take(labels.numpy(), columns, 1), rows, 0))


@dataclass(frozen=True)
class SegmentationTransform:
    """Sizes and augmentation of a recipe's `data.segmentation`."""

    settings: SegmentationData
    normalization: Normalization = IMAGENET

    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """uint8 (3, H, W), (H, W) -> uint8 (3, *crop), (*crop); always the same number of draws."""
        draws = torch.rand(11 + 2 * (CROP_TRIES + 1), generator=generator, dtype=torch.float64).tolist()
        ratio = _between(self.settings.scale, draws[0])
        size = resized_size(
            (pixels.shape[-2], pixels.shape[-1]),
            int(self.settings.short_side * ratio),
            int(self.settings.long_side * ratio),
        )
        rows, columns, target = self._crop(target, size, draws[11:])
        pixels = resample(pixels, size, "bilinear", antialias=False)[:, rows, columns]
        if draws[1] < self.settings.hflip:
            pixels, target = pixels.flip(-1), target.flip(-1)
        if self.settings.photometric:
            pixels = photometric(pixels, draws[2:11])
        return self._padded(pixels, target)

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        """uint8 (3, H, W) -> (3, h, w): within the test sides times `ratio`, then each side up to a multiple of `align`.

        Both in one resize, to resample only once.
        """
        short, long = int(self.settings.test_short_side * ratio), int(self.settings.test_long_side * ratio)
        height, width = resized_size((pixels.shape[-2], pixels.shape[-1]), short, long)
        size = padded_side(height, self.settings.align), padded_side(width, self.settings.align)
        return resample(pixels, size, "bilinear", antialias=False)

    def _crop(self, target: Tensor, size: ImageSize, draws: list[float]) -> tuple[slice, slice, Tensor]:
        """Where to crop a map resized to `size`, and the crop of it; the last draw is used in any case."""
        spare = [max(0, side - limit) for side, limit in zip(size, self.settings.crop, strict=True)]
        down_to, right_to = (nearest_pixels(old, new) for old, new in zip(target.shape, size, strict=True))
        rows, columns, part = slice(0), slice(0), target
        for down, right in zip(draws[::2], draws[1::2], strict=True):
            top, left = int(down * (spare[0] + 1)), int(right * (spare[1] + 1))
            rows, columns = slice(top, top + self.settings.crop[0]), slice(left, left + self.settings.crop[1])
            part = torch.from_numpy(np.take(np.take(target.numpy(), down_to[rows], 0), right_to[columns], 1))
            if self.settings.cat_max_ratio >= 1 or not any(spare) or _is_mixed(part, self.settings.cat_max_ratio):
                break
        return rows, columns, part

    def _padded(self, pixels: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        height, width = target.shape
        if (height, width) == self.settings.crop:
            return pixels, target.contiguous()
        fill = self.normalization.grey
        image = torch.tensor(fill, dtype=torch.uint8).view(3, 1, 1).repeat(1, *self.settings.crop)
        labels = torch.full(self.settings.crop, IGNORE_LABEL, dtype=torch.uint8)
        image[:, :height, :width] = pixels
        labels[:height, :width] = target
        return image, labels


def photometric(pixels: Tensor, draws: list[float]) -> Tensor:
    """uint8 (3, h, w) with other brightness, contrast, saturation and hue, each with a chance of a half.

    `draws` are nine numbers in [0, 1): whether and how much of each, and whether contrast comes first or last.
    Order, ranges and rounding down are mmsegmentation's. Saturation and hue are changed in PIL's HSV, whose 256 hues are
    finer than OpenCV's 180.
    """
    shift = _between((-BRIGHTNESS, BRIGHTNESS), draws[1]) if draws[0] < 0.5 else 0.0
    contrast = _between(CONTRAST, draws[3]) if draws[2] < 0.5 else 1.0
    saturation = _between(SATURATION, draws[5]) if draws[4] < 0.5 else 1.0
    turn = round(256 * _between((-HUE, HUE), draws[7])) if draws[6] < 0.5 else 0
    levels = np.clip(np.arange(256) + shift, 0, 255).astype(np.uint8)
    last = np.arange(256, dtype=np.uint8)
    scaled = np.clip(np.arange(256) * contrast, 0, 255).astype(np.uint8)
    levels, last = (scaled[levels], last) if draws[8] < 0.5 else (levels, scaled)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if saturation == 1.0 and turn == 0:
        return pixels_of(image.point(last[levels].tolist() * 3))
    hue = (np.arange(256) + turn) % 256
    vivid = np.clip(np.arange(256) * saturation, 0, 255).astype(np.uint8)
    image = image.point(levels.tolist() * 3).convert("HSV")
    image = image.point([*hue.tolist(), *vivid.tolist(), *range(256)]).convert("RGB")
    return pixels_of(image.point(last.tolist() * 3))


def _is_mixed(labels: Tensor, limit: float) -> bool:
    """Whether there are at least two classes and each has less than `limit` of the labelled pixels."""
    counts = torch.bincount(labels.reshape(-1), minlength=256)[:IGNORE_LABEL]
    return int((counts > 0).sum()) > 1 and int(counts.max()) < limit * int(counts.sum())


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + draw * (limits[1] - limits[0])
