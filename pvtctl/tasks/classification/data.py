"""Splits of classification data: draws become samples; unreadable images are skipped and reported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pvtctl.data.images import BadImage, SourceImage
from pvtctl.data.layouts import IMAGENET_LAYOUT
from pvtctl.data.randomness import generator_for, key_of
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import Normalization
from pvtctl.errors import UsageError
from pvtctl.tasks.classification.layouts import ImageFolder
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.shards import ShardFolder, has_shards
from pvtctl.tasks.classification.transforms import EvalTransform, TrainTransform

if TYPE_CHECKING:
    from pvtctl.data.scenes.scene import Materials
from pvtctl.data.base import MAX_SUBSTITUTES, Skipped, Unusable, reason


class ClassificationSource(Protocol):
    """Where the images of a split come from."""

    class_names: list[str]
    labels: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def ids(self) -> Sequence[str]:
        """A name for each sample, unique in the split."""

    def picture(self, index: int) -> SourceImage:
        """Raises BadImage, OSError."""

    def sizes(self) -> Iterator[int]:
        """A number for each sample that changes when its content does (bytes of the file), for `fingerprint`."""


@dataclass(frozen=True)
class ClassificationSample:
    """One network input with its label."""

    image: Tensor
    """float32 (3, H, W), normalised."""
    label: int
    id: str
    index: int
    skipped: tuple[Skipped, ...] = ()
    """Draws before this one that could not be read."""

    @property
    def target(self) -> int:
        """The label, under the name common to all tasks."""
        return self.label


@dataclass
class Batch:
    """A batch of samples."""

    images: Tensor
    """float32 (B, 3, H, W)."""
    labels: Tensor
    """int64 (B,)."""
    ids: list[str]
    indices: Tensor
    """int64 (B,): positions in the split."""
    key: int
    """Depends on the seed and the draws alone; seeds what is drawn per batch (mixup)."""
    skipped: list[Skipped]
    failed: int = 0
    """Draws that gave no sample."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its images, labels and indices on `device`."""
        images, labels, indices = (
            part.to(device, non_blocking=True) for part in (self.images, self.labels, self.indices)
        )
        return Batch(images, labels, self.ids, indices, self.key, self.skipped, self.failed)

    def pin_memory(self) -> Batch:
        """For the data loader."""
        images, labels, indices = (part.pin_memory() for part in (self.images, self.labels, self.indices))
        return Batch(images, labels, self.ids, indices, self.key, self.skipped, self.failed)


class ClassificationDataset(Dataset[ClassificationSample | Unusable]):
    """A split under a transform. Indexed by draws, so that random numbers depend on (seed, epoch, index, copy) alone.

    In training a sample that cannot be read is replaced by the next in the list (then the next ...), with the random
    numbers of the draw; the sample names what was skipped. In evaluation it is left out.
    """

    normalization: Normalization = "imagenet"

    def __init__(
        self,
        source: ClassificationSource,
        transform: TrainTransform | EvalTransform,
        *,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.class_names = source.class_names
        total = len(source.ids)
        kept = total if samples is None else min(samples, total)
        # spread over the whole list, which is sorted by class
        self.kept = np.arange(kept, dtype=np.int64) * total // kept
        self.labels = np.asarray(source.labels)[self.kept]

    @property
    def training(self) -> bool:
        return isinstance(self.transform, TrainTransform)

    @property
    def ids(self) -> list[str]:
        """Names of all samples. Built at each call."""
        return [self.source.ids[int(index)] for index in self.kept]

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, index: int) -> tuple[Tensor, int]:
        """An original image, uint8 (3, H, W), and its label. Raises BadImage, OSError."""
        picture = self.source.picture(int(self.kept[index]))
        size = picture.height, picture.width
        return picture.resized((0, 0, *size), size), int(self.labels[index])

    def __getitem__(self, draw: Draw | int) -> ClassificationSample | Unusable:
        if isinstance(draw, int):
            draw = Draw(0, draw)
        skipped: list[Skipped] = []
        for step in range(min(MAX_SUBSTITUTES, len(self)) if self.training else 1):
            index = (draw.index + step) % len(self)
            place = int(self.kept[index])
            try:
                generator = generator_for(self.seed, draw.epoch, draw.index, draw.copy)
                image = self.transform(self.source.picture(place), generator)
            except (BadImage, OSError) as error:
                skipped.append(Skipped(self.source.ids[place], reason(error)))
                continue
            return ClassificationSample(image, int(self.labels[index]), self.source.ids[place], index, tuple(skipped))
        return Unusable(tuple(skipped))

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        """A whole batch: the samples, then the batch's key."""
        flat = [part for draw in draws for part in draw]
        return [*(self[draw] for draw in draws), key_of(self.seed, "batch", *flat)]

    def fingerprint(self) -> str:
        """Hash of names, sizes, labels and classes. Reads no image."""
        digest = hashlib.sha256(repr(list(self.class_names)).encode())
        kept = np.zeros(len(self.source.ids), dtype=bool)
        kept[self.kept] = True
        for index, size in enumerate(self.source.sizes()):
            if kept[index]:
                digest.update(f"{self.source.ids[index]}\0{size}\0{self.source.labels[index]}\n".encode())
        return digest.hexdigest()[:16]

    def collate(self, items: list[Any]) -> Batch:
        """Collate the output of `__getitems__` into a batch of the readable samples."""
        *drawn, key = items
        samples = [item for item in drawn if isinstance(item, ClassificationSample)]
        return Batch(
            images=torch.stack([sample.image for sample in samples]) if samples else torch.empty(0, 3, 0, 0),
            labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            ids=[sample.id for sample in samples],
            indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
            key=key,
            skipped=[skip for item in drawn for skip in item.skipped],
            failed=len(drawn) - len(samples),
        )


def open_source(
    name: str,
    root: Path | str,
    split: str,
    *,
    samples: int | None = None,
    size: int = 256,
    seed: int = 0,
    materials: Materials = "any",
) -> ClassificationSource:
    """The images of a split before any transform. `samples`, `size`, `seed` and `materials` are for `scenes`."""
    if name == "scenes":
        from pvtctl.data.scenes.scene import ScenesSource

        return ScenesSource(split, size=size, num_samples=samples, seed=seed, materials=materials)
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"no data folder {root}", IMAGENET_LAYOUT)
    return ShardFolder(root, split) if has_shards(root, split) else ImageFolder(root, split)


def open_classification_split(
    name: str,
    root: Path | str,
    split: str,
    *,
    image_size: int = 224,
    resize: int = 256,
    augment: Augment | None = None,
    seed: int = 0,
    samples: int | None = None,
    materials: Materials = "any",
) -> ClassificationDataset:
    """A split of `imagenet` (class folders or tar shards at `root`) or `scenes`.

    `augment` (a recipe's `data.augment`) makes it a training split; without it images are resized and
    cropped as in evaluation. `samples` limits the number, spread evenly over the classes; `scenes` renders that many,
    in these `materials`. Raises UsageError.
    """
    transform: TrainTransform | EvalTransform
    if augment is None:
        transform = EvalTransform(image_size, resize)
    else:
        transform = TrainTransform(image_size, augment)
    size = resize if augment is None else image_size
    source = open_source(name, root, split, samples=samples, size=size, materials=materials)
    return ClassificationDataset(source, transform, seed=seed, samples=samples)
