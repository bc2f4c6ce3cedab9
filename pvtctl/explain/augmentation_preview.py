"""What training makes of images: the draws of a recipe, exactly as a run with its seed sees them, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.class_names import readable_name
from pvtctl.data.images import EncodedPicture
from pvtctl.data.randomness import generator_for, key_of
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.models.structures import IGNORE_LABEL, Objects
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.classification.data import ClassificationDataset, Sample
from pvtctl.tasks.classification.mixup import Mixup
from pvtctl.tasks.classification.transforms import TrainTransform
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.preview import depth_tile
from pvtctl.tasks.depth.transforms import DepthTransform
from pvtctl.tasks.detection.data import DetectionDataset
from pvtctl.tasks.detection.preview import objects_tile
from pvtctl.tasks.detection.transforms import DetectionTransform
from pvtctl.tasks.predict import read_pixels
from pvtctl.tasks.segmentation.preview import labels_tile
from pvtctl.tasks.segmentation.transforms import SegmentationTransform
from pvtctl.tasks.splits import open_recipe_split

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
_NOTHING = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

# Matplotlib takes a second to import: the views are imported where something is drawn.


class Augmentations:
    """The training draws of a recipe. `names` are the images': an image has the same name under every recipe."""

    names: list[str]

    def __init__(self, recipe: Recipe, side: int) -> None:
        """`side` in pixels: the width of the pictures, or their longer side."""
        self.recipe, self.side = recipe, side

    def original(self, index: int) -> Pixels:
        """The image as it lies, with what is true of it. Raises BadImage, OSError."""
        raise NotImplementedError

    def draw(self, index: int, epoch: int) -> Pixels:
        """What an epoch makes of it. Raises BadImage, OSError."""
        raise NotImplementedError

    def mixed(self, indices: Sequence[int], epoch: int) -> tuple[list[Pixels], list[str]] | None:
        """The images of a batch of these, mixed by mixup or CutMix, and their soft labels in words; None where the recipe
        does not mix."""
        augment = self.recipe.data.augment
        if self.recipe.task != "classification" or not (augment.mixup_alpha or augment.cutmix_alpha):
            return None
        images, labels, names = self._batch(indices, epoch)
        mixup = Mixup.from_augment(len(names), augment)
        flat = [part for index in indices for part in Draw(epoch, index)]
        mixed, targets = mixup(images, labels, key_of(self.recipe.train.seed, "batch", *flat))
        return [_rgb(denormalize(image)) for image in mixed], [_soft(target, names) for target in targets]

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        """Images (B, 3, H, W), labels (B,) and class names, before they are mixed."""
        raise NotImplementedError

    def _tile(self, pixels: Tensor, target: Any, class_names: list[str], palette: Any = None) -> Pixels:
        """uint8 (3, H, W) and its truth as a picture."""
        match self.recipe.task:
            case "classification":
                return _rgb(pixels)
            case "detection":
                from pvtctl.tasks.detection.pictures import draw_detections

                return np.asarray(objects_tile(pixels, target, class_names, self.side, draw_detections))
            case "segmentation":
                from pvtctl.tasks.segmentation.pictures import draw_overlay
                from pvtctl.views.class_colours import class_colours

                colours = class_colours(len(class_names), palette)

                def overlaid(image: Pixels, labels: NDArray[np.uint8]) -> Pixels:
                    return draw_overlay(image, labels, class_names, colours)

                return np.asarray(labels_tile(pixels, target, self.side, overlaid))
            case _:
                from pvtctl.tasks.depth.pictures import draw_depth

                def metres(depth: NDArray[np.float32]) -> Pixels:
                    return draw_depth(depth, "metres")

                return np.asarray(depth_tile(pixels, target, self.side, metres))


class OfSplit(Augmentations):
    """Of a recipe's data: a run with the recipe's seed sees the same draws."""

    def __init__(self, recipe: Recipe, split: str, side: int) -> None:
        """Raises UsageError for data that is not there."""
        super().__init__(recipe, side)
        masks = recipe.model.head is not None and recipe.model.head.name == "mask_rcnn"
        self.split: Any = open_recipe_split(recipe, split, training=True, with_masks=masks)
        self.names = self.split.ids

    def original(self, index: int) -> Pixels:
        split = self.split
        place = int(split.kept[index])
        match split:
            case ClassificationDataset():
                picture = split.source.picture(place)
                return _rgb(picture.resized((0, 0, picture.height, picture.width), (picture.height, picture.width)))
            case DetectionDataset():
                truth = split.source.objects(place, with_masks=split.with_masks)
                return self._tile(split.source.pixels(place), truth, split.class_names)
            case _:
                pixels, target = split.read(index)
                return self._tile(pixels, target, split.class_names, split.source.palette)

    def draw(self, index: int, epoch: int) -> Pixels:
        sample = self.split[Draw(epoch, index)]
        how: Any = getattr(self.split, "normalization", "imagenet")
        target = None if isinstance(self.split, ClassificationDataset) else sample.target
        palette = self.split.source.palette if isinstance(self.split, DenseDataset) else None
        return self._tile(denormalize(sample.image, how), target, self.split.class_names, palette)

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        samples = [self.split[Draw(epoch, index)] for index in indices]
        kept = [sample for sample in samples if isinstance(sample, Sample)]
        labels = torch.tensor([sample.label for sample in kept])
        return (
            torch.stack([sample.image for sample in kept]),
            labels,
            [readable_name(n) for n in self.split.class_names],
        )


class OfFiles(Augmentations):
    """Of image files, of which nothing is known: only their pixels are drawn."""

    def __init__(self, recipe: Recipe, folder: Path, names: list[str], side: int) -> None:
        super().__init__(recipe, side)
        self.folder, self.names = folder, names

    def original(self, index: int) -> Pixels:
        return _rgb(read_pixels(self.folder / self.names[index])[0])

    def draw(self, index: int, epoch: int) -> Pixels:
        return _rgb(self._drawn(index, epoch))

    def _drawn(self, index: int, epoch: int) -> Tensor:
        """uint8 (3, h, w)."""
        data = self.recipe.data
        file = self.folder / self.names[index]
        generator = generator_for(self.recipe.train.seed, epoch, index, 0)
        if self.recipe.task == "classification":
            crop = TrainTransform.from_augment(data.image_size, data.augment)
            return denormalize(crop(EncodedPicture(file.read_bytes()), generator))
        pixels = read_pixels(file)[0]
        shape = pixels.shape[-2:]
        if self.recipe.task == "detection":
            return DetectionTransform.from_settings(data.detection).train(pixels, _NOTHING, generator)[0]
        if self.recipe.task == "segmentation":
            transform = SegmentationTransform.from_settings(data.segmentation, data.normalization)
            return transform.train(pixels, torch.full(shape, IGNORE_LABEL, dtype=torch.uint8), generator)[0]
        return DepthTransform.from_settings(data.depth).train(pixels, torch.zeros(shape), generator)[0]

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        from pvtctl.data.transforms import normalize

        images = torch.stack([normalize(self._drawn(index, epoch)) for index in indices])
        return images, torch.arange(len(indices)), [Path(self.names[index]).stem for index in indices]


def _soft(target: Tensor, names: Sequence[str]) -> str:
    """`ball 62 %, ring 30 %`: what is more than the smoothing alone gives."""
    best = target.topk(min(2, len(target)))
    least = 1.5 * float(target.min())
    said = [
        f"{names[label]} {100 * share:.0f} %"
        for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if share > least
    ]
    return ", ".join(said)


def _rgb(pixels: Tensor) -> Pixels:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
