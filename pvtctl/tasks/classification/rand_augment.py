"""RandAugment as in the papers' code: rand-m9-mstd0.5-inc1 of timm 0.3.2.

torchvision's RandAugment has neither a spread of the magnitude nor operations that all grow with it, so the policy is
written here over torchvision's functional operations and PIL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

FILL = (124, 116, 104)
"""ImageNet's mean colour, fills the area uncovered by geometric operations."""

TOP = 10.0
"""The largest magnitude."""


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn with replacement, each applied with probability `prob` at a magnitude ~ N(m, std)."""

    magnitude: float = 9.0
    std: float = 0.5
    prob: float = 0.5
    num_ops: int = 2

    def __call__(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        """An RGB image -> one of the same size."""
        picks = torch.randint(len(OPERATIONS), (self.num_ops,), generator=generator).tolist()
        chances, signs = torch.rand(2, self.num_ops, generator=generator).tolist()
        spreads = torch.randn(self.num_ops, generator=generator).tolist()
        for pick, chance, sign, spread in zip(picks, chances, signs, spreads, strict=True):
            if chance < self.prob:
                level = min(max(self.magnitude + self.std * spread, 0.0), TOP) / TOP
                image = OPERATIONS[pick](image, level, 1.0 if sign < 0.5 else -1.0)
        return image


def _rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    return TF.rotate(image, sign * level * 30.0, interpolation=InterpolationMode.BICUBIC, fill=list(FILL))


def _posterize(image: Image.Image, level: float, sign: float) -> Image.Image:
    bits = 4 - int(level * 4)
    if bits == 0:  # torchvision and PIL refuse to keep no bits, which is what the top magnitude asks for
        return Image.new("RGB", image.size)
    return TF.posterize(image, bits)


def _solarize_add(image: Image.Image, level: float, sign: float) -> Image.Image:
    add = int(level * 110)
    return image.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


def _enhance(adjust: Callable[[Image.Image, float], Image.Image]) -> Callable[[Image.Image, float, float], Image.Image]:
    """Colour, contrast, brightness or sharpness away from 1, to 0.1 or 1.9 at most."""
    return lambda image, level, sign: adjust(image, 1.0 + sign * level * 0.9)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """`matrix` maps the output's pixels to the input's, from the top left corner."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


OPERATIONS: tuple[Callable[[Image.Image, float, float], Image.Image], ...] = (
    lambda image, level, sign: TF.autocontrast(image),
    lambda image, level, sign: TF.equalize(image),
    lambda image, level, sign: TF.invert(image),
    _rotate,
    _posterize,
    lambda image, level, sign: TF.solarize(image, 256 - int(level * 256)),
    _solarize_add,
    _enhance(TF.adjust_saturation),
    _enhance(TF.adjust_contrast),
    _enhance(TF.adjust_brightness),
    _enhance(TF.adjust_sharpness),
    lambda image, level, sign: _affine(image, (1, sign * level * 0.3, 0, 0, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, 0, sign * level * 0.3, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, sign * level * 0.45 * image.width, 0, 1, 0)),
    lambda image, level, sign: _affine(image, (1, 0, 0, 0, 1, sign * level * 0.45 * image.height)),
)
"""The 15 operations of timm's increasing set; each takes (image, magnitude in 0..1, sign of -1 or 1)."""
