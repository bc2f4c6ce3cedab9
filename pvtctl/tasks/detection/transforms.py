"""Transforms of images with boxes and masks to network inputs: resize, crop, flip, with explicit random draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.sizes import resized_size
from pvtctl.data.transforms import resample
from pvtctl.models.structures import ImageSize, Objects
from pvtctl.tasks.detection.settings import DetectionData

CROP_SHORT_SIDES = (400, 500, 600)
"""Short sides of the first resize of the crop branch."""

CROP_SIDES = (384, 600)
"""Smallest and largest side of its crops."""

MIN_BOX_SIDE = 1.0
"""Pixels of the network's input: objects with a shorter side are dropped."""


def resize_masks(masks: Tensor, size: ImageSize) -> Tensor:
    """bool (N, h, w) -> (N, *size), nearest neighbour, as torchvision's in a quarter of the time."""
    rows, columns = (_nearest(old, new) for old, new in zip(masks.shape[-2:], size, strict=True))
    return torch.from_numpy(np.take(np.take(masks.numpy(), columns, 2), rows, 1))


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """For each of `new` pixels of a line the source pixel of `old`; in float32, like torch."""
    places = np.arange(new, dtype=np.float32) * np.float32(old / new)
    return np.minimum(places.astype(np.int64), old - 1)


def crop(pixels: Tensor, objects: Objects, top: int, left: int, size: ImageSize) -> tuple[Tensor, Objects]:
    """Crop an image; objects with boxes outside are dropped, others clipped."""
    height, width = size
    boxes = (objects.boxes - torch.tensor([left, top] * 2)).clamp(min=0).minimum(torch.tensor([width, height] * 2))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows, columns = slice(top, top + height), slice(left, left + width)
    masks = None if objects.masks is None else objects.masks[kept, rows, columns]
    return pixels[:, rows, columns], Objects(boxes[kept], objects.labels[kept], masks)


def flip(pixels: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Flip left to right."""
    boxes = objects.boxes[:, [2, 1, 0, 3]]
    boxes[:, ::2] = pixels.shape[-1] - boxes[:, ::2]
    return pixels.flip(-1), Objects(boxes, objects.labels, None if objects.masks is None else objects.masks.flip(-1))


def drop_degenerate(objects: Objects) -> Objects:
    """Drop objects with a side below `MIN_BOX_SIDE`."""
    kept = (objects.boxes[:, 2:] - objects.boxes[:, :2] >= MIN_BOX_SIDE).all(1)
    if bool(kept.all()):
        return objects
    return Objects(objects.boxes[kept], objects.labels[kept], None if objects.masks is None else objects.masks[kept])


@dataclass(frozen=True)
class DetectionTransform:
    """Sizes and augmentation of a recipe's `data.detection`."""

    settings: DetectionData

    def train(self, pixels: Tensor, objects: Objects, generator: torch.Generator) -> tuple[Tensor, Objects]:
        """Crop branch or not, resize to a drawn short side, flip; always the same number of draws."""
        cropping, flipping, short, *where = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
        if cropping < self.settings.crop:
            pixels, objects = self._crop(pixels, objects, where)
        size = resized_size((pixels.shape[-2], pixels.shape[-1]), self._short_side(short), self.settings.long_side)
        pixels, objects = self.resize(pixels, objects, size)
        if flipping < self.settings.hflip:
            pixels, objects = flip(pixels, objects)
        return pixels, drop_degenerate(objects)

    def evaluate(self, pixels: Tensor, short_side: int | None = None, long_side: int | None = None) -> Tensor:
        """Resize within these sides, by default those of testing; nothing random."""
        short, long = short_side or self.settings.test_short_side, long_side or self.settings.test_long_side
        size = resized_size((pixels.shape[-2], pixels.shape[-1]), short, long)
        return resample(pixels, size, "bilinear", antialias=self.settings.resize == "antialias")

    def resize(self, pixels: Tensor, objects: Objects, size: ImageSize) -> tuple[Tensor, Objects]:
        """uint8 (3, h, w) -> (3, *size), with boxes and masks, the latter by nearest pixel."""
        before = (pixels.shape[-2], pixels.shape[-1])
        if before == size:
            return pixels, objects
        pixels = resample(pixels, size, "bilinear", antialias=self.settings.resize == "antialias")
        boxes = objects.boxes * torch.tensor([size[1] / before[1], size[0] / before[0]] * 2)
        masks = None if objects.masks is None else resize_masks(objects.masks, size)
        return pixels, Objects(boxes, objects.labels, masks)

    def _short_side(self, draw: float) -> int:
        sides = self.settings.short_sides
        if self.settings.sampling == "range":
            return min(sides) + int(draw * (max(sides) - min(sides) + 1))
        return sides[int(draw * len(sides))]

    def _crop(self, pixels: Tensor, objects: Objects, draws: list[float]) -> tuple[Tensor, Objects]:
        first, tall, wide, down, right = draws
        short = CROP_SHORT_SIDES[int(first * len(CROP_SHORT_SIDES))]
        height, width = resized_size((pixels.shape[-2], pixels.shape[-1]), short, self.settings.long_side)
        pixels, objects = self.resize(pixels, objects, (height, width))
        rows, columns = (_between(side, draw) for side, draw in ((height, tall), (width, wide)))
        return crop(
            pixels, objects, int(down * (height - rows + 1)), int(right * (width - columns + 1)), (rows, columns)
        )


def _between(side: int, draw: float) -> int:
    low, high = (min(side, limit) for limit in CROP_SIDES)
    return low + int(draw * (high - low + 1))
