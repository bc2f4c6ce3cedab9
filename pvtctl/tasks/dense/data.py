"""Splits of data with a map per image, labels or depth: draws become images with their maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.base import Sample, SampleBatch, SplitDataset, evenly
from pvtctl.data.images import BadImage
from pvtctl.data.randomness import generator_for
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import RawImage, normalize, pad_images
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.structures import ImageSize


class DenseSource(Protocol):
    """Where the images of a split and their maps come from."""

    class_names: list[str]
    """Of segmentation; empty for depth."""
    palette: list[tuple[int, int, int]] | None
    """RGB of each class if the data defines it."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File name, unique in the split."""

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, H, W). Raises BadImage, OSError."""

    def target(self, index: int) -> Tensor:
        """uint8 (H, W) labels from 0, IGNORE_LABEL for unlabelled; or float32 (H, W) metres, 0 for no depth.

        Raises BadImage, OSError; UsageError for values that point to a wrong setting.
        """

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Hash of some images and their maps. Reads no image."""


class DenseTransform(Protocol):
    """Sizes and augmentation."""

    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """uint8 (3, H, W) and its map -> uint8 (3, h, w) and its map (h, w), of the training size."""

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        """uint8 (3, H, W) -> (3, h, w) for evaluation, `ratio` times as large; nothing random."""


@dataclass(kw_only=True)
class DenseBatch(SampleBatch):
    """A batch of images with their maps."""

    sizes: list[ImageSize]
    """(h, w) of each image within the batch."""
    targets: list[Tensor]
    """uint8 labels or float32 metres: in training (h, w) of `images`, in evaluation of the original image."""
    original_sizes: list[ImageSize]

    def changed(self, change: Callable[[Tensor], Tensor]) -> DenseBatch:
        return replace(super().changed(change), targets=[change(target) for target in self.targets])


class DenseDataset(SplitDataset):
    """A split of images with maps; see `SplitDataset`."""

    source: DenseSource

    def __init__(
        self,
        source: DenseSource,
        transform: DenseTransform,
        *,
        training: bool,
        normalization: Normalization = IMAGENET,
        seed: int = 0,
        samples: int | None = None,
        problems: Mapping[str, int] | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.training = training
        self.normalization = normalization
        self.seed = seed
        self.problems = dict(problems or {})
        self.class_names = source.class_names
        self.kept = evenly(len(source), samples)

    def load(self, draw: Draw, index: int) -> tuple[RawImage, Tensor, ImageSize]:
        pixels, target = self.read(index)
        original = (pixels.shape[-2], pixels.shape[-1])
        if self.training:
            generator = generator_for(self.seed, draw.epoch, draw.index, draw.copy)
            pixels, target = self.transform.train(pixels, target, generator)
        else:
            pixels = self.transform.evaluate(pixels)
        return RawImage(pixels), target, original

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """An original image, uint8 (3, H, W), and its map (H, W). Raises BadImage, OSError."""
        place = int(self.kept[index])
        pixels, target = self.source.pixels(place), self.source.target(place)
        if pixels.shape[-2:] != target.shape:
            height, width = target.shape
            raise BadImage(f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels, but its map is {width}x{height}")
        return pixels, target

    def image_at(self, index: int, ratio: float = 1.0, flip: bool = False) -> Tensor:
        """An image for the network, float32 (3, h, w), `ratio` times its test size. Raises BadImage, OSError."""
        pixels = self.transform.evaluate(self.source.pixels(int(self.kept[index])), ratio)
        return normalize(pixels.flip(-1) if flip else pixels, self.normalization)

    def batch(self, samples: list[Sample], **shared: Any) -> DenseBatch:
        return DenseBatch(
            images=pad_images([sample.image for sample in samples], 1),
            sizes=[(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples],
            targets=[sample.target for sample in samples],
            original_sizes=[sample.original_size for sample in samples if sample.original_size],
            **shared,
        )
