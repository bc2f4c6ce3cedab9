"""Splits of classification data: draws become samples; unreadable images are skipped and reported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pvtctl.data.base import Sample, SampleBatch, SplitDataset, evenly
from pvtctl.data.images import AS_STORED, Reading, SourceImage
from pvtctl.data.layouts import IMAGENET_LAYOUT
from pvtctl.data.randomness import generator_for
from pvtctl.data.samplers import Draw, ShardWindows
from pvtctl.data.transforms import RawImage
from pvtctl.io.foreign import require_folder
from pvtctl.io.names import name_bytes
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.io.urls import is_url
from pvtctl.tasks.classification.layouts import ImageFolder
from pvtctl.tasks.classification.remote_shards import RemoteShards
from pvtctl.tasks.classification.settings import Augment, Shards
from pvtctl.tasks.classification.shards import ShardFolder, ShardSamples, has_shards
from pvtctl.tasks.classification.transforms import EvalTransform, TrainTransform

if TYPE_CHECKING:
    from pvtctl.data.scenes.scene import Materials


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


@dataclass(kw_only=True)
class Batch(SampleBatch):
    """A batch of images with their labels."""

    labels: Tensor
    """int64 (B,)."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(super().changed(change), labels=change(self.labels))


class ClassificationDataset(SplitDataset):
    """A split of images with labels; see `SplitDataset`."""

    source: ClassificationSource

    def __init__(
        self,
        source: ClassificationSource,
        transform: TrainTransform | EvalTransform,
        *,
        seed: int = 0,
        samples: int | None = None,
    ) -> None:
        self.source = source
        self.transform, self.normalization = transform, transform.normalization
        self.training = isinstance(transform, TrainTransform)
        self.seed = seed
        self.problems = {}
        self.class_names = source.class_names
        self.kept = evenly(len(source.ids), samples)  # over the whole list, which is sorted by class
        self.labels = np.asarray(source.labels)[self.kept]
        self.windows: ShardWindows | None = None
        """Which shards are read at a time; None: any sample is read at any time."""
        if isinstance(source, ShardSamples) and source.mix is not None:
            shard_of = source.places[self.kept, 0]
            self.windows = ShardWindows(shard_of, source.mix, seed=seed, shuffled=self.training)

    def __getitems__(self, draws: list[Draw]) -> list[Any]:
        if self.windows is not None and isinstance(self.source, RemoteShards):
            self.source.prepare(self.windows.needed(draws))
        return super().__getitems__(draws)

    def name(self, index: int) -> str:
        return self.source.ids[int(self.kept[index])]

    def read(self, index: int) -> tuple[Tensor, int]:
        """An original image, uint8 (3, H, W), and its label. Raises BadImage, OSError."""
        picture = self.source.picture(int(self.kept[index]))
        size = picture.height, picture.width
        return picture.resized((0, 0, *size), size), int(self.labels[index])

    def load(self, draw: Draw, index: int) -> tuple[RawImage, int, None]:
        generator = generator_for(self.seed, draw.epoch, draw.index, draw.copy)
        pixels = self.transform.pixels(self.source.picture(int(self.kept[index])), generator)
        return pixels, int(self.labels[index]), None

    def fingerprint(self) -> str:
        """Hash of names, sizes, labels and classes. Reads no image."""
        digest = hashlib.sha256(name_bytes(repr(list(self.class_names))))
        kept = np.zeros(len(self.source.ids), dtype=bool)
        kept[self.kept] = True
        for index, size in enumerate(self.source.sizes()):
            if kept[index]:
                digest.update(name_bytes(f"{self.source.ids[index]}\0{size}\0{self.source.labels[index]}\n"))
        return digest.hexdigest()[:16]

    def batch(self, samples: list[Sample], **shared: Any) -> Batch:
        return Batch(
            images=torch.stack([sample.image for sample in samples]) if samples else torch.empty(0, 3, 0, 0),
            labels=torch.tensor([sample.target for sample in samples], dtype=torch.int64),
            **shared,
        )


def open_source(
    name: str,
    root: Path | str,
    split: str,
    *,
    samples: int | None = None,
    size: int = 256,
    materials: Materials = "any",
    reading: Reading = AS_STORED,
    shards: Shards | None = None,
) -> ClassificationSource:
    """The images of a split before any transform. `samples`, `size` and `materials` are for `scenes`."""
    if name == "scenes":
        from pvtctl.data.scenes.scene import ScenesSource

        return ScenesSource(split, size=size, num_samples=samples, materials=materials)
    if is_url(root):
        return RemoteShards(str(root), split, reading, shards)
    root = Path(root)
    require_folder(root, IMAGENET_LAYOUT)
    if has_shards(root, split, shards):
        return ShardFolder(root, split, reading, shards)
    return ImageFolder(root, split, reading=reading)


def count_images(name: str, root: Path, split: str) -> dict[str, int]:
    """Classes and images of a split, for `pvtctl data ls`. Raises UsageError."""
    source = open_source(name, root, split)
    return {"classes": len(source.class_names), split: len(source.ids)}


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
    reading: Reading = AS_STORED,
    normalization: Normalization = IMAGENET,
    shards: Shards | None = None,
) -> ClassificationDataset:
    """A split of `imagenet` (class folders or tar shards at `root`, a folder or a URL) or `scenes`.

    `augment` (a recipe's `data.augment`) makes it a training split; without it images are resized and
    cropped as in evaluation. `samples` limits the number, spread evenly over the classes; `scenes` renders that many,
    in these `materials`. Raises UsageError.
    """
    transform: TrainTransform | EvalTransform
    if augment is None:
        transform = EvalTransform(image_size, resize, normalization)
    else:
        transform = TrainTransform(image_size, augment, normalization)
    size = resize if augment is None else image_size
    options: dict[str, Any] = {"samples": samples, "size": size, "materials": materials, "reading": reading}
    source = open_source(name, root, split, shards=shards, **options)
    return ClassificationDataset(source, transform, seed=seed, samples=samples)
