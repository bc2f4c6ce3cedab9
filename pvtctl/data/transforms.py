"""Images of bytes to normalised images and back."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pvtctl.io.normalization import IMAGENET, Normalization


def pad_images(images: list[Tensor], multiple: int) -> Tensor:
    """Images (3, h, w) of any sizes and one type -> (B, 3, H, W): zeros right and below, sides whole multiples."""
    if not images:
        return torch.empty(0, 3, 0, 0)
    height, width = (-(-max(image.shape[side] for image in images) // multiple) * multiple for side in (-2, -1))
    padded = torch.empty(len(images), 3, height, width, dtype=images[0].dtype)
    for row, image in zip(padded, images, strict=True):
        own_height, own_width = image.shape[-2:]
        row[:, :own_height, :own_width] = image
        row[:, :own_height, own_width:] = 0
        row[:, own_height:] = 0
    return padded


def resample(pixels: Tensor, size: tuple[int, int], how: Literal["bilinear", "bicubic"], *, antialias: bool) -> Tensor:
    """uint8 (3, h, w) -> uint8 (3, *size), by pixel centres.

    To shrink, all pixels under a new one are averaged with `antialias`, as by PIL; without, only those around its centre,
    as by OpenCV and in torchvision's detectors. In integers, at a fifteenth of the time in floats: bilinear is within a
    grey level of the formula, as OpenCV's is; bicubic (a = -0.75, with `antialias` -0.5) is too but for 0.05 % of a
    photo's values, at saturated edges by up to 27, where rows are clipped before columns.
    """
    if pixels.shape[-2:] == tuple(size):
        return pixels
    # with the strides of a batch in channels-last layout, as decoded photos have it: else torch writes the result of a
    # single image plane by plane, in twice the time
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode=how, antialias=antialias)[0]


def nearest_pixels(old: int, new: int) -> NDArray[np.int64]:
    """For each of `new` pixels of a line the nearest of `old`, by pixel centres, as torch's `nearest-exact` takes it.

    Taking them from the lines of a map is faster than torch's resampling of it, and a crop needs only its own.
    """
    line = torch.arange(old, dtype=torch.float32).view(1, 1, old, 1)
    return F.interpolate(line, (new, 1), mode="nearest-exact").view(new).long().numpy()


@cache
def _factors(how: Normalization) -> tuple[Tensor, Tensor]:
    """Factor and summand of values from 0 to 255, (3, 1, 1) each."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (how.mean, how.std))
    return 1.0 / (255.0 * std), -(mean / std)


def normalize(pixels: Tensor, how: Normalization = IMAGENET) -> Tensor:
    """uint8 RGB (..., 3, H, W) on any device -> float32 there, in the channel order of `how`, contiguous."""
    scale, shift = (each.to(pixels.device, non_blocking=True) for each in _factors(how))
    out = torch.empty(pixels.shape, device=pixels.device)
    return out.copy_(pixels.flip(-3) if how.order == "bgr" else pixels).mul_(scale).add_(shift)


class Noise(NamedTuple):
    """What random erasing puts into a normalised image."""

    values: Tensor
    """float32 (3, h, w)."""
    top: int
    left: int

    def put(self, image: Tensor) -> None:
        """Overwrite its part of `image` (3, H, W)."""
        height, width = self.values.shape[1:]
        image[:, self.top : self.top + height, self.left : self.left + width] = self.values


class RawImage(NamedTuple):
    """An image before normalisation."""

    values: Tensor
    """uint8 RGB (3, h, w)."""
    noise: Noise | None = None
    """Put into the normalised image."""

    def normalized(self, how: Normalization) -> Tensor:
        """float32 (3, h, w), contiguous."""
        image = normalize(self.values, how)
        if self.noise is not None:
            self.noise.put(image)
        return image


def denormalize(images: Tensor, how: Normalization = IMAGENET) -> Tensor:
    """The inverse of `normalize`, to draw network inputs: uint8 (..., 3, H, W)."""
    scale, shift = _factors(how)
    pixels = ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)
    return pixels.flip(-3) if how.order == "bgr" else pixels
