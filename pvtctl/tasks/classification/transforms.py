"""Training transforms of DeiT and evaluation crop of the papers, to normalised images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from pvtctl.data.images import SourceImage, pixels_of
from pvtctl.data.transforms import Noise, RawImage
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.tasks.classification.settings import Augment

LARGEST_MAGNITUDE = 10.0
"""Of RandAugment."""

Fill = tuple[int, int, int]
Operation = Callable[[Image.Image, float, float, Fill], Image.Image]


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop (bicubic), horizontal flip, RandAugment, normalisation, random erasing, in this order."""

    image_size: int
    augment: Augment
    normalization: Normalization = IMAGENET

    def __call__(self, picture: SourceImage, generator: torch.Generator) -> Tensor:
        """A picture -> float32 (3, image_size, image_size). Raises BadImage."""
        return self.pixels(picture, generator).normalized(self.normalization)

    def pixels(self, picture: SourceImage, generator: torch.Generator) -> RawImage:
        """The same before normalisation."""
        own = self.augment
        box = random_crop_box(picture.height, picture.width, own.crop_scale, own.crop_ratio, generator)
        pixels = picture.resized(box, (self.image_size, self.image_size), exact=False)
        flip, erase = torch.rand(2, generator=generator).tolist()
        if flip < own.hflip:
            pixels = pixels.flip(-1)
        if own.rand_augment and own.rand_augment_ops:
            before = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            after = rand_augment(before, own, generator, self.normalization.grey)
            pixels = pixels if after is before else pixels_of(after)
        return RawImage(
            pixels, erasing_noise(self.image_size, self.image_size, generator) if erase < own.erasing else None
        )


@dataclass(frozen=True)
class EvalTransform:
    """Short side to `resize` (bicubic, antialiased), centre crop of `image_size`, normalisation. Nothing random.

    An `image_size` above `resize` raises `resize` to it, so that the crop always fits.
    """

    image_size: int = 224
    resize: int = 256
    normalization: Normalization = IMAGENET

    def __call__(self, picture: SourceImage, generator: torch.Generator | None = None) -> Tensor:
        """A picture -> float32 (3, image_size, image_size). Raises BadImage."""
        return self.pixels(picture).normalized(self.normalization)

    def pixels(self, picture: SourceImage, generator: torch.Generator | None = None) -> RawImage:
        """The same before normalisation."""
        short_side = max(self.resize, self.image_size)
        top, left, height, width = _middle(picture.height, picture.width)
        if height <= width:
            size = (short_side, int(short_side * width / height))
        else:
            size = (int(short_side * height / width), short_side)
        pixels = picture.resized((top, left, height, width), size)
        top, left = (round((side - self.image_size) / 2) for side in size)
        return RawImage(pixels[:, top : top + self.image_size, left : left + self.image_size])


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


def erasing_noise(height: int, width: int, generator: torch.Generator) -> Noise | None:
    """Normal noise, one value per pixel and channel, for a box of an image: 2 % to 1/3 of the area, aspect 0.3 to 1/0.3.

    None when ten tries give no box that fits.
    """
    tries = torch.rand(10, 4, generator=generator).tolist()
    limit = math.log(0.3)
    for for_area, for_aspect, for_top, for_left in tries:
        area = height * width * (0.02 + (1 / 3 - 0.02) * for_area)
        aspect = math.exp(limit - 2 * limit * for_aspect)
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height < height and 0 < box_width < width:
            top, left = int(for_top * (height - box_height + 1)), int(for_left * (width - box_width + 1))
            return Noise(torch.randn(3, box_height, box_width, generator=generator), top, left)
    return None


def rand_augment(
    image: Image.Image, augment: Augment, generator: torch.Generator, fill: Fill = IMAGENET.grey
) -> Image.Image:
    """RandAugment as in the papers' code, rand-m9-mstd0.5-inc1 of timm 0.3.2: an RGB image -> one of the same size.

    Operations are drawn with replacement, each applied with a probability at a magnitude ~ N(mean, std). `fill` is the
    colour of areas that geometric ones uncover. torchvision's RandAugment has neither a spread of the magnitude nor operations that all grow with it.
    """
    count = augment.rand_augment_ops
    picks = torch.randint(len(OPERATIONS), (count,), generator=generator).tolist()
    chances, signs = torch.rand(2, count, generator=generator).tolist()
    spreads = torch.randn(count, generator=generator).tolist()
    for pick, chance, sign, spread in zip(picks, chances, signs, spreads, strict=True):
        if chance < augment.rand_augment_prob:
            magnitude = augment.rand_augment_magnitude + augment.rand_augment_std * spread
            level = min(max(magnitude, 0.0), LARGEST_MAGNITUDE) / LARGEST_MAGNITUDE
            image = OPERATIONS[pick](image, level, 1.0 if sign < 0.5 else -1.0, fill)
    return image


def _rotate(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    return TF.rotate(image, sign * level * 30.0, interpolation=InterpolationMode.BICUBIC, fill=list(fill))


def _posterize(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    bits = 4 - int(level * 4)
    if bits == 0:  # torchvision and PIL refuse to keep no bits, which is what the top magnitude asks for
        return Image.new("RGB", image.size)
    return TF.posterize(image, bits)


def _solarize_add(image: Image.Image, level: float, sign: float, fill: Fill) -> Image.Image:
    add = int(level * 110)
    return image.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


def _enhance(adjust: Callable[[Image.Image, float], Image.Image]) -> Operation:
    """Colour, contrast, brightness or sharpness away from 1, to 0.1 or 1.9 at most."""
    return lambda image, level, sign, fill: adjust(image, 1.0 + sign * level * 0.9)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    """`matrix` maps the output's pixels to the input's, from the top left corner."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=fill
    )


OPERATIONS: tuple[Operation, ...] = (
    lambda image, level, sign, fill: TF.autocontrast(image),
    lambda image, level, sign, fill: TF.equalize(image),
    lambda image, level, sign, fill: TF.invert(image),
    _rotate,
    _posterize,
    lambda image, level, sign, fill: TF.solarize(image, 256 - int(level * 256)),
    _solarize_add,
    _enhance(TF.adjust_saturation),
    _enhance(TF.adjust_contrast),
    _enhance(TF.adjust_brightness),
    _enhance(TF.adjust_sharpness),
    lambda image, level, sign, fill: _affine(image, (1, sign * level * 0.3, 0, 0, 1, 0), fill),
    lambda image, level, sign, fill: _affine(image, (1, 0, 0, sign * level * 0.3, 1, 0), fill),
    lambda image, level, sign, fill: _affine(image, (1, 0, sign * level * 0.45 * image.width, 0, 1, 0), fill),
    lambda image, level, sign, fill: _affine(image, (1, 0, 0, 0, 1, sign * level * 0.45 * image.height), fill),
)
"""The 15 operations of timm's increasing set; each takes (image, magnitude in 0..1, sign of -1 or 1, fill colour)."""
