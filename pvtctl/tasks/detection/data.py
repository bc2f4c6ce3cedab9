"""Splits of detection data: draws become images with their objects, and samples padded batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.base import Sample, SampleBatch, SplitDataset, evenly
from pvtctl.data.image_files import is_file
from pvtctl.data.images import AS_SHOWN, Reading, file_size, image_bytes, read_image
from pvtctl.data.randomness import generator_for
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import RawImage, normalize, pad_images
from pvtctl.errors import UsageError, nearest
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.structures import ImageSize, Objects
from pvtctl.tasks.detection.coco import CocoAnnotations, find_coco, none_there
from pvtctl.tasks.detection.settings import MIN_TRAIN_SIDE, DetectionData
from pvtctl.tasks.detection.transforms import DetectionTransform

if TYPE_CHECKING:
    from pvtctl.data.scenes.scene import Materials

DETECTION_NAMES = ("coco", "scenes")


class DetectionSource(Protocol):
    """Where the images of a split and their objects come from."""

    class_names: list[str]
    category_ids: list[int]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    """(I, 2): height, width."""

    @property
    def annotations(self) -> CocoAnnotations: ...

    @property
    def has_masks(self) -> bool: ...

    def name(self, index: int) -> str:
        """File name, unique in the split."""

    def num_objects(self, *, with_masks: bool) -> NDArray[np.int64]:
        """(I,): number of training objects; an image may have more."""

    def pixels(self, index: int) -> Tensor:
        """uint8 (3, H, W). Raises BadImage, OSError."""

    def objects(self, index: int, *, with_masks: bool) -> Objects:
        """Objects in pixels of the original image."""

    def digest(self, indices: NDArray[np.int64]) -> str:
        """Hash of some images and their objects."""


class CocoSource:
    """Images in a folder, with COCO annotations. Raises UsageError if images are needed and all are missing."""

    def __init__(
        self, folder: Path, annotations: CocoAnnotations, *, need_images: bool = True, reading: Reading = AS_SHOWN
    ) -> None:
        self.folder, self.reading = folder, reading
        self.annotations = annotations
        self.class_names, self.category_ids = annotations.class_names, annotations.category_ids
        self.image_ids, self.sizes = annotations.image_ids, annotations.sizes
        if need_images and not any(is_file(folder / name) for name in annotations.file_names):
            raise UsageError(
                none_there(folder, annotations.file_names),
                "name the folder that their file_name entries start from (data.train_images / data.val_images)",
            )

    @property
    def has_masks(self) -> bool:
        return self.annotations.has_masks

    def name(self, index: int) -> str:
        return self.annotations.file_names[index]

    def num_objects(self, *, with_masks: bool) -> NDArray[np.int64]:
        return self.annotations.num_objects(with_masks=with_masks)

    def __len__(self) -> int:
        return len(self.annotations)

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises BadImage."""
        return image_bytes(self.folder / self.name(index))

    def pixels(self, index: int) -> Tensor:
        """Raises BadImage, also if the file's size differs from the annotations, which then belong to another file."""
        height, width = self.sizes[index].tolist()
        return read_image(self.read(index), self.reading, (height, width))

    def objects(self, index: int, *, with_masks: bool) -> Objects:
        found = self.annotations.objects(index, with_masks=with_masks)
        masks = torch.from_numpy(self.annotations.masks(index, found.rows)) if with_masks else None
        return Objects(torch.from_numpy(found.boxes), torch.from_numpy(found.labels), masks)

    def digest(self, indices: NDArray[np.int64]) -> str:
        return self.annotations.digest(indices)


@dataclass(kw_only=True)
class DetectionBatch(SampleBatch):
    """A batch of images of several sizes with their objects."""

    sizes: list[ImageSize]
    """(h, w) of each image within the batch."""
    targets: list[Objects]
    """In pixels of `images`."""
    original_sizes: list[ImageSize]
    image_ids: list[int]
    """COCO's."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> DetectionBatch:
        targets = [
            Objects(change(target.boxes), change(target.labels), None if target.masks is None else change(target.masks))
            for target in self.targets
        ]
        return replace(super().changed(change), targets=targets)


class DetectionDataset(SplitDataset):
    """A split of images with objects; see `SplitDataset`.

    Training excludes images without objects and those with a side below 32 pixels; `problems` counts them, together
    with dropped annotations.
    """

    source: DetectionSource

    def __init__(
        self,
        source: DetectionSource,
        transform: DetectionTransform,
        *,
        training: bool,
        with_masks: bool = False,
        pad: int = 32,
        normalization: Normalization = IMAGENET,
        seed: int = 0,
        samples: int | None = None,
        problems: Mapping[str, int] | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.training = training
        self.with_masks = with_masks
        self.pad = pad
        self.normalization = normalization
        self.seed = seed
        self.class_names, self.category_ids = source.class_names, source.category_ids
        self.problems = dict(problems or {})
        self.cautions = list(getattr(source.annotations, "cautions", ()))
        if not training and not source.num_objects(with_masks=False).any():
            self.cautions.append("not one object to score: all scores will be empty, and no epoch is the best")
        usable = self._usable()
        self.kept = usable[evenly(len(usable), samples)]

    def _usable(self) -> NDArray[np.int64]:
        if not self.training:
            return np.arange(len(self.source.image_ids))
        empty = self.source.num_objects(with_masks=self.with_masks) == 0
        small = ~empty & (self.source.sizes.min(1) < MIN_TRAIN_SIDE)
        for kind, wrong in (("images_without_objects", empty), ("images_below_32_pixels", small)):
            if wrong.any():
                self.problems[kind] = int(wrong.sum())
        usable = np.flatnonzero(~empty & ~small)
        if not len(usable):
            raise UsageError(
                f"no image to train on: {int(empty.sum())} have no objects, {int(small.sum())} a side below "
                f"{MIN_TRAIN_SIDE} pixels",
                "`pvtctl data check FOLDER` describes the annotations",
            )
        return usable

    @property
    def annotations(self) -> CocoAnnotations:
        """Of the whole source; `to_coco` returns those of this split only."""
        return self.source.annotations

    @property
    def wide(self) -> NDArray[np.bool_]:
        """bool (len(self),): wider than high, for `GroupedTrainSampler`."""
        sizes = self.source.sizes[self.kept]
        return np.asarray(sizes[:, 1] > sizes[:, 0])

    def load(self, draw: Draw, index: int) -> tuple[RawImage, Objects, ImageSize]:
        place = int(self.kept[index])
        pixels = self.source.pixels(place)
        original = (pixels.shape[-2], pixels.shape[-1])
        if self.training:
            generator = generator_for(self.seed, draw.epoch, draw.index, draw.copy)
            target = self.source.objects(place, with_masks=self.with_masks)
            pixels, target = self.transform.train(pixels, target, generator)
        else:
            # scores use `to_coco`, in pixels of the original; boxes here are for losses and pictures
            pixels = self.transform.evaluate(pixels)
            target = self.truth(index, (pixels.shape[-2], pixels.shape[-1]))
        return RawImage(pixels), target, original

    def truth(self, index: int, size: ImageSize | None = None) -> Objects:
        """Boxes and labels of an image, without masks; in pixels of the original or of the image resized to `size`."""
        place = int(self.kept[index])
        target = self.source.objects(place, with_masks=False)
        if size is not None:
            height, width = self.source.sizes[place].tolist()
            scale = [size[1] / width, size[0] / height] * 2
            target = Objects(target.boxes * torch.tensor(scale), target.labels)
        return target

    def read(self, index: int) -> tuple[Tensor, Objects]:
        """An original image, uint8 (3, H, W), and its objects. Raises BadImage, OSError."""
        place = int(self.kept[index])
        truth = self.source.objects(place, with_masks=self.with_masks)
        return self.source.pixels(place), truth

    def original(self, index: int) -> NDArray[np.uint8]:
        """The original image, (H, W, 3) RGB. Raises BadImage, OSError."""
        return self.source.pixels(int(self.kept[index])).permute(1, 2, 0).contiguous().numpy()

    def image_at(self, index: int, short_side: int, long_side: int, flip: bool = False) -> tuple[Tensor, ImageSize]:
        """An image for the network at another size, float32 (3, h, w), and its (h, w). Raises BadImage, OSError."""
        pixels = self.transform.evaluate(self.source.pixels(int(self.kept[index])), short_side, long_side)
        image = normalize(pixels.flip(-1) if flip else pixels, self.normalization)
        return image, (pixels.shape[-2], pixels.shape[-1])

    def to_coco(self) -> dict[str, Any]:
        """The ground truth of this split for scoring, in the format of `CocoAnnotations.to_coco`."""
        return self.annotations.to_coco(self.kept.tolist())

    def batch(self, samples: list[Sample], **shared: Any) -> DetectionBatch:
        return DetectionBatch(
            images=pad_images([sample.image for sample in samples], self.pad),
            sizes=[(sample.image.shape[-2], sample.image.shape[-1]) for sample in samples],
            targets=[sample.target for sample in samples],
            original_sizes=[sample.original_size for sample in samples if sample.original_size],
            image_ids=[int(self.source.image_ids[self.kept[sample.index]]) for sample in samples],
            **shared,
        )


def open_detection_split(
    name: str,
    root: Path | str | None,
    split: str,
    *,
    settings: DetectionData,
    training: bool,
    with_masks: bool,
    seed: int = 0,
    samples: int | None = None,
    image_size: int = 224,
    materials: Materials = "any",
    images: Path | str | None = None,
    annotations: Path | str | None = None,
    need_images: bool = True,
    reading: Reading = AS_SHOWN,
    normalization: Normalization = IMAGENET,
) -> DetectionDataset:
    """A split of `coco` (a known layout under `root`, or the pair `images` and `annotations`) or `scenes`.

    `settings` are a recipe's `data.detection`. `samples` limits the number of images, spread evenly; `scenes`
    renders that many, square at `image_size`, in these `materials`. Without `need_images` annotations suffice, e.g. for
    results files; then `with_masks` reads masks if there are any. Raises UsageError, also if masks are requested and
    missing.
    """
    if name not in DETECTION_NAMES:
        raise UsageError(f"unknown detection data {name!r}", nearest(name, DETECTION_NAMES))
    source: DetectionSource
    if name == "scenes":
        from pvtctl.tasks.detection.scenes import ScenesDetection

        source, problems = ScenesDetection(split, size=image_size, num_samples=samples, materials=materials), {}
    else:
        folder, file = find_coco(root, split, images=images, annotations=annotations, need_images=need_images)
        read = CocoAnnotations.read(
            file,
            masks=with_masks,
            crowds_are_objects=settings.crowds == "objects",
            size_of=lambda name: file_size(folder / name, reading),
        )
        source, problems = CocoSource(folder, read, need_images=need_images, reading=reading), read.problems
        if with_masks and need_images and not read.has_masks:
            raise UsageError(f"{file} holds no masks, only boxes", "train a box detector: --head retinanet")
    return DetectionDataset(
        source,
        DetectionTransform(settings),
        training=training,
        with_masks=with_masks,
        pad=settings.pad,
        normalization=normalization,
        seed=seed,
        samples=samples,
        problems=problems,
    )
