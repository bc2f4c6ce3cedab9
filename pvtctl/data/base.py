"""Splits of the data of all tasks: draws become samples, unreadable images are replaced or left out, samples a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pvtctl.data.images import BadImage
from pvtctl.data.randomness import key_of
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import Noise, RawImage, normalize
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.structures import ImageSize

MAX_SUBSTITUTES = 64
"""This many unreadable images in a row end a run: then the data set is broken, not a file."""


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Unusable:
    """Stands for a sample for which nothing could be read."""

    skipped: tuple[Skipped, ...]


def reason(error: Exception) -> str:
    """One-line reason why a file could not be used."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


@dataclass(frozen=True)
class Sample:
    """One network input with its ground truth, before padding."""

    image: Tensor
    """float32 (3, h, w), normalised; in batches that are normalised on the device uint8 RGB."""
    target: Any
    """Classification: the label. Detection: `Objects` in pixels of `image`. Segmentation, depth: a map, in training
    that of `image`, in evaluation that of the original image."""
    original_size: ImageSize | None
    """(H, W) of the file; None in classification."""
    id: str
    index: int
    """Position in the split."""
    skipped: tuple[Skipped, ...] = ()
    """Draws before this one that could not be read."""
    noise: Noise | None = None
    """To be put into a uint8 `image` after normalisation."""


@dataclass(kw_only=True)
class SampleBatch:
    """The part of a batch that all tasks share."""

    images: Tensor
    """float32 (B, 3, H, W), normalised; smaller ones padded with zeros to the right and at the bottom. With a
    `normalization` uint8 RGB: `to` normalises them."""
    ids: list[str]
    """File names."""
    indices: Tensor
    """int64 (B,): positions in the split."""
    key: int
    """Depends on the seed and the draws alone; seeds what is drawn per batch (mixup)."""
    skipped: list[Skipped]
    failed: int = 0
    """Draws that gave no sample."""
    normalization: Normalization | None = None
    """How `to` normalises uint8 images."""
    noises: list[tuple[int, Noise]] = field(default_factory=list)
    """What is put into which image after that."""

    def __len__(self) -> int:
        return len(self.ids)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The batch with `change` applied to each of its tensors."""
        noises = [(row, noise._replace(values=change(noise.values))) for row, noise in self.noises]
        return replace(self, images=change(self.images), indices=change(self.indices), noises=noises)

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on `device`, images normalised there if they are not."""
        moved = self.changed(lambda part: part.to(device, non_blocking=True))
        if self.normalization is None:
            return moved
        images = normalize(moved.images, self.normalization)
        for image, (height, width) in zip(images, getattr(self, "sizes", ()), strict=False):
            for padding in (image[:, height:], image[:, :height, width:]):
                if padding.numel():
                    padding.zero_()
        for row, noise in moved.noises:
            noise.put(images[row])
        return replace(moved, images=images, normalization=None, noises=[])

    def pin_memory(self) -> Self:
        """For the data loader."""
        return self.changed(Tensor.pin_memory)


def evenly(total: int, limit: int | None) -> NDArray[np.int64]:
    """Positions of `limit` of `total` entries, spread evenly; all without a limit."""
    count = total if limit is None else min(limit, total)
    return np.arange(count, dtype=np.int64) * total // max(1, count)


class SplitDataset(Dataset["Sample | Unusable"]):
    """A split under the transform of training or evaluation. Random numbers depend on (seed, epoch, index, copy) alone.

    In training an image that cannot be read is replaced by the next in the list (then the next ...), with the random
    numbers of the draw; the sample names what was skipped. In evaluation it is left out.
    """

    source: Any
    training: bool
    seed: int
    class_names: list[str]
    """Empty for depth."""
    normalization: Normalization = IMAGENET
    raw_batches = False
    """Batches hold uint8 images, a quarter of the bytes to move to a GPU, which normalises them (`SampleBatch.to`)."""
    problems: dict[str, int]
    """Kind of excluded or corrected parts -> number."""
    cautions: Sequence[str] = ()
    """What was mended in the data or looks wrong, a sentence each: a run says them at its start."""
    kept: NDArray[np.int64]
    """(len(self),): positions in the source."""

    def __len__(self) -> int:
        return len(self.kept)

    def name(self, index: int) -> str:
        """File name of the image at a position of the split."""
        name: str = self.source.name(int(self.kept[index]))
        return name

    @property
    def ids(self) -> list[str]:
        """File names of all samples. Built at each call."""
        return [self.name(index) for index in range(len(self))]

    def image_files(self) -> list[Any]:
        """The sources of this split that read image files: each has a `reading` and `read(index)`; none if it is rendered."""
        return [each for each in getattr(self.source, "parts", {"": self.source}).values() if hasattr(each, "reading")]

    def fingerprint(self) -> str:
        """Hash of what the split holds: equal for equal data. Reads no image."""
        digest: str = self.source.digest(self.kept)
        return digest

    def __getitem__(self, draw: Draw | int) -> Sample | Unusable:
        return self._drawn(Draw(0, draw) if isinstance(draw, int) else draw, raw=False)

    def _drawn(self, draw: Draw, *, raw: bool) -> Sample | Unusable:
        skipped: list[Skipped] = []
        for step in range(min(MAX_SUBSTITUTES, len(self)) if self.training else 1):
            index = self.chosen(draw, step)
            try:
                pixels, target, original_size = self.load(draw, index)
            except (BadImage, OSError) as error:
                skipped.append(Skipped(self.name(index), reason(error)))
            else:
                image, noise = pixels if raw else (pixels.normalized(self.normalization), None)
                return Sample(image, target, original_size, self.name(index), index, tuple(skipped), noise)
        return Unusable(tuple(skipped))

    def chosen(self, draw: Draw, step: int) -> int:
        """Position of a draw's image in the split, or of its `step`-th replacement."""
        return (draw.index + step) % len(self)

    @abstractmethod
    def read(self, index: int) -> tuple[Tensor, Any]:
        """An original image, uint8 (3, H, W), and its ground truth. Raises BadImage, OSError."""

    @abstractmethod
    def load(self, draw: Draw, index: int) -> tuple[RawImage, Any, ImageSize | None]:
        """The image before normalisation, `target` and `original_size` of a `Sample`. Raises BadImage, OSError."""

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        """A whole batch: the samples, then the batch's key."""
        flat = [part for draw in draws for part in draw]
        return [*(self._drawn(draw, raw=self.raw_batches) for draw in draws), key_of(self.seed, "batch", *flat)]

    def collate(self, items: list[Any]) -> Any:
        """Collate the output of `__getitems__` into a batch of the readable samples."""
        *drawn, key = items
        samples = [item for item in drawn if isinstance(item, Sample)]
        return self.batch(
            samples,
            ids=[sample.id for sample in samples],
            indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
            key=key,
            skipped=[skip for item in drawn for skip in item.skipped],
            failed=len(drawn) - len(samples),
            normalization=self.normalization if self.raw_batches and samples else None,
            noises=[(row, sample.noise) for row, sample in enumerate(samples) if sample.noise is not None],
        )

    @abstractmethod
    def batch(self, samples: list[Sample], **shared: Any) -> SampleBatch:
        """The batch of `samples`, with the fields `shared` of `SampleBatch`."""
