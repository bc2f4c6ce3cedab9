"""Splits of data with a map per image, labels or depth: draws become images with their maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pvtctl.data.base import MAX_SUBSTITUTES, Skipped, Unusable, reason
from pvtctl.data.images import BadImage
from pvtctl.data.randomness import generator_for, key_of
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import Normalization, normalize, pad_images
from pvtctl.models.structures import IGNORE_LABEL, ImageSize


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


@dataclass(frozen=True)
class DenseSample:
    """One network input with its map."""

    image: Tensor
    """float32 (3, h, w), normalised."""
    target: Tensor
    """Training: the map of `image`. Evaluation: that of the original image."""
    original_size: ImageSize
    id: str
    index: int
    skipped: tuple[Skipped, ...] = ()
    """Draws before this one that could not be read."""


@dataclass
class DenseBatch:
    """A batch of images with their maps."""

    images: Tensor
    """float32 (B, 3, H, W), normalised; smaller ones padded with zeros to the right and at the bottom."""
    sizes: list[ImageSize]
    """(h, w) of each image within the batch."""
    targets: list[Tensor]
    """uint8 labels or float32 metres: in training (h, w) of `images`, in evaluation of the original image."""
    original_sizes: list[ImageSize]
    ids: list[str]
    indices: Tensor
    """int64 (B,): positions in the split."""
    key: int
    """Depends on the seed and the draws alone."""
    skipped: list[Skipped]
    failed: int = 0
    """Draws that gave no sample."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> DenseBatch:
        """The batch with its images, targets and indices on `device`."""
        images, indices = (part.to(device, non_blocking=True) for part in (self.images, self.indices))
        targets = [target.to(device, non_blocking=True) for target in self.targets]
        return replace(self, images=images, indices=indices, targets=targets)

    def pin_memory(self) -> DenseBatch:
        """For the data loader."""
        return replace(
            self,
            images=self.images.pin_memory(),
            indices=self.indices.pin_memory(),
            targets=[target.pin_memory() for target in self.targets],
        )


class DenseDataset(Dataset["DenseSample | Unusable"]):
    """A split under the transform of training or evaluation. Random numbers depend on (seed, epoch, index, copy) alone.

    An image that cannot be read is replaced by the next in training and left out in evaluation.
    """

    def __init__(
        self,
        source: DenseSource,
        transform: DenseTransform,
        *,
        training: bool,
        normalization: Normalization = "imagenet",
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
        """Kind of excluded images -> number."""
        self.class_names = source.class_names
        count = len(source) if samples is None else min(samples, len(source))
        self.kept = np.arange(count, dtype=np.int64) * len(source) // max(1, count)
        """(len(self),): positions in the source."""

    @property
    def ids(self) -> list[str]:
        """File names of all samples. Built at each call."""
        return [self.source.name(place) for place in self.kept.tolist()]

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, draw: Draw | int) -> DenseSample | Unusable:
        if isinstance(draw, int):
            draw = Draw(0, draw)
        skipped: list[Skipped] = []
        for step in range(min(MAX_SUBSTITUTES, len(self)) if self.training else 1):
            index = self.chosen(draw, step)
            place = int(self.kept[index])
            try:
                pixels, target = self.read(index)
            except (BadImage, OSError) as error:
                skipped.append(Skipped(self.source.name(place), reason(error)))
                continue
            original = (pixels.shape[-2], pixels.shape[-1])
            if self.training:
                generator = generator_for(self.seed, draw.epoch, draw.index, draw.copy)
                pixels, target = self.transform.train(pixels, target, generator)
            else:
                pixels = self.transform.evaluate(pixels)
            image = normalize(pixels, self.normalization)
            return DenseSample(image, target, original, self.source.name(place), index, tuple(skipped))
        return Unusable(tuple(skipped))

    def chosen(self, draw: Draw, step: int) -> int:
        """Position of a draw's image in the split, or of its `step`-th replacement."""
        return (draw.index + step) % len(self)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """An original image, uint8 (3, H, W), and its map (H, W). Raises BadImage, OSError."""
        place = int(self.kept[index])
        pixels, target = self.source.pixels(place), self.source.target(place)
        if pixels.shape[-2:] != target.shape:
            height, width = target.shape
            raise BadImage(f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels, but its map is {width}x{height}")
        return pixels, target

    def original(self, index: int) -> NDArray[np.uint8]:
        """The original image, (H, W, 3) RGB. Raises BadImage, OSError."""
        return self.source.pixels(int(self.kept[index])).permute(1, 2, 0).contiguous().numpy()

    def image_at(self, index: int, ratio: float = 1.0, flip: bool = False) -> Tensor:
        """An image for the network, float32 (3, h, w), `ratio` times its test size. Raises BadImage, OSError."""
        pixels = self.transform.evaluate(self.source.pixels(int(self.kept[index])), ratio)
        return normalize(pixels.flip(-1) if flip else pixels, self.normalization)

    def fingerprint(self) -> str:
        """Hash of what the split holds: equal for equal data. Reads no image."""
        return self.source.digest(self.kept)

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        """A whole batch: the samples, then the batch's key."""
        flat = [part for draw in draws for part in draw]
        return [*(self[draw] for draw in draws), key_of(self.seed, "batch", *flat)]

    def collate(self, items: list[Any]) -> DenseBatch:
        """Collate the output of `__getitems__` into a batch of the readable samples."""
        *drawn, key = items
        samples = [item for item in drawn if isinstance(item, DenseSample)]
        return DenseBatch(
            images=pad_images([sample.image for sample in samples], 1),
            sizes=[(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples],
            targets=[sample.target for sample in samples],
            original_sizes=[sample.original_size for sample in samples],
            ids=[sample.id for sample in samples],
            indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
            key=key,
            skipped=[skip for item in drawn for skip in item.skipped],
            failed=len(drawn) - len(samples),
        )


__all__ = ["IGNORE_LABEL", "DenseBatch", "DenseDataset", "DenseSample", "DenseSource", "DenseTransform"]
