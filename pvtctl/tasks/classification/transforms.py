"""Training transforms of DeiT and evaluation crop of the papers, to normalised images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from pvtctl.data.images import SourceImage, pixels_of
from pvtctl.data.transforms import normalize
from pvtctl.tasks.classification.rand_augment import RandAugment
from pvtctl.tasks.classification.settings import Augment


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop (bicubic), horizontal flip, RandAugment, normalisation, random erasing, in this order.

    Field names are those of a recipe's `data.augment`.
    """

    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    rand_augment: bool = True
    rand_augment_magnitude: float = 9.0
    rand_augment_std: float = 0.5
    rand_augment_prob: float = 0.5
    rand_augment_ops: int = 2
    erasing: float = 0.25

    @classmethod
    def from_augment(cls, image_size: int, augment: Augment) -> TrainTransform:
        """Create from a recipe's `data.augment`."""
        return cls(image_size, **augment.values_for(cls))

    def __call__(self, picture: SourceImage, generator: torch.Generator) -> Tensor:
        """A picture -> float32 (3, image_size, image_size). Raises BadImage."""
        box = random_crop_box(picture.height, picture.width, self.crop_scale, self.crop_ratio, generator)
        pixels = picture.resized(box, (self.image_size, self.image_size), exact=False)
        flip, erase = torch.rand(2, generator=generator).tolist()
        if flip < self.hflip:
            pixels = pixels.flip(-1)
        if self.rand_augment and self.rand_augment_ops:
            pixels = self._rand_augment(pixels, generator)
        image = normalize(pixels)
        return erase_box(image, generator) if erase < self.erasing else image

    def _rand_augment(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        policy = RandAugment(
            self.rand_augment_magnitude, self.rand_augment_std, self.rand_augment_prob, self.rand_augment_ops
        )
        before = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        after = policy(before, generator)
        if after is before:
            return pixels
        return pixels_of(after)


@dataclass(frozen=True)
class EvalTransform:
    """Short side to `resize` (bicubic, antialiased), centre crop of `image_size`, normalisation. Nothing random.

    An `image_size` above `resize` raises `resize` to it, so that the crop always fits.
    """

    image_size: int = 224
    resize: int = 256

    def __call__(self, picture: SourceImage, generator: torch.Generator | None = None) -> Tensor:
        """A picture -> float32 (3, image_size, image_size). Raises BadImage."""
        short_side = max(self.resize, self.image_size)
        top, left, height, width = _middle(picture.height, picture.width)
        if height <= width:
            size = (short_side, int(short_side * width / height))
        else:
            size = (int(short_side * height / width), short_side)
        pixels = picture.resized((top, left, height, width), size)
        top, left = (round((side - self.image_size) / 2) for side in size)
        return normalize(pixels[:, top : top + self.image_size, left : left + self.image_size])


def _middle(height: int, width: int) -> tuple[int, int, int, int]:
    """The whole picture, or the middle part of a strip more than 4 times as long as wide, which contains the centre
    crop: resampling a strip of 20000x10 whole would take half a gigabyte."""
    limit = 2 * min(height, width)
    if max(height, width) <= 2 * limit:
        return 0, 0, height, width
    # same parity as the whole, so that the middle stays the middle
    part_height = height if height <= limit else limit + height % 2
    part_width = width if width <= limit else limit + width % 2
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def random_crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of random area (share of the picture) and aspect (log-uniform).

    Ten tries, then the largest centred crop within the aspect's range, as in torchvision.
    """
    tries = torch.rand(10, 4, generator=generator).tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for for_area, for_aspect, for_top, for_left in tries:
        area = height * width * (scale[0] + (scale[1] - scale[0]) * for_area)
        aspect = math.exp(low + (high - low) * for_aspect)
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(for_top * (height - crop_height + 1)), int(for_left * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height = min(height, max(1, round(width / ratio[0])))
    crop_width = min(width, max(1, round(height * ratio[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def erase_box(image: Tensor, generator: torch.Generator) -> Tensor:
    """Overwrite one box by normal noise, one value per pixel and channel: 2 % to 1/3 of the area, aspect 0.3 to 1/0.3.

    In place; unchanged when ten tries give no box that fits.
    """
    height, width = image.shape[-2:]
    tries = torch.rand(10, 4, generator=generator).tolist()
    limit = math.log(0.3)
    for for_area, for_aspect, for_top, for_left in tries:
        area = height * width * (0.02 + (1 / 3 - 0.02) * for_area)
        aspect = math.exp(limit - 2 * limit * for_aspect)
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height < height and 0 < box_width < width:
            top, left = int(for_top * (height - box_height + 1)), int(for_left * (width - box_width + 1))
            noise = torch.randn(3, box_height, box_width, generator=generator)
            image[:, top : top + box_height, left : left + box_width] = noise
            return image
    return image
