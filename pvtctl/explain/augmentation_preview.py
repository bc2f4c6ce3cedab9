"""Previews of a recipe's data augmentation, exactly as in a run with the same seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvtctl.data.base import Unusable
from pvtctl.data.class_names import readable_name
from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.data.randomness import generator_for, key_of
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize, normalize
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.from_recipe import open_split
from pvtctl.tasks.predict import read_pixels
from pvtctl.tasks.reading import reading_of
from pvtctl.tasks.registry import spec_of


class Augmentations(ABC):
    """Augmented training images of a recipe. `names` are those of the images, equal under all recipes."""

    names: list[str]

    def __init__(self, recipe: Recipe, side: int) -> None:
        """`side`: the width of the pictures, or their longer side, in pixels."""
        self.recipe, self.side, self.spec = recipe, side, spec_of(recipe)

    @abstractmethod
    def original(self, index: int) -> RgbImage:
        """The original image with its ground truth. Raises BadImage, OSError."""

    @abstractmethod
    def draw(self, index: int, epoch: int) -> RgbImage:
        """The image as augmented in an epoch. Raises BadImage, OSError."""

    def mixed(self, indices: Sequence[int], epoch: int) -> tuple[list[RgbImage], list[str]] | None:
        """Images of a batch after mixup or CutMix, and their soft labels as text; None if the recipe uses neither."""
        if not self.spec.mixes(self.recipe):
            return None
        images, labels, names = self._batch(indices, epoch)
        flat = [part for index in indices for part in Draw(epoch, index)]
        key = key_of(self.recipe.train.seed, "batch", *flat)
        mixed, said = self.spec.mix(self.recipe, images, labels, names, key)
        return [to_rgb(denormalize(image, self.recipe.data.pixels)) for image in mixed], said

    @abstractmethod
    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        """Images (B, 3, H, W), labels (B,) and class names, before mixing."""


class AugmentedSplit(Augmentations):
    """Augmented images of a recipe's data, the same as in a run with the recipe's seed."""

    def __init__(self, recipe: Recipe, split: str, side: int) -> None:
        """Raises UsageError for missing data."""
        super().__init__(recipe, side)
        self.split: Any = open_split(recipe, split, "train")
        self.names = self.split.ids

    def original(self, index: int) -> RgbImage:
        pixels, target = self.split.read(index)
        return self.spec.draw_target(self.split, pixels, target, self.side)

    def draw(self, index: int, epoch: int) -> RgbImage:
        sample = self.split[Draw(epoch, index)]
        pixels = denormalize(sample.image, self.split.normalization)
        return self.spec.draw_target(self.split, pixels, sample.target, self.side)

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        samples = [self.split[Draw(epoch, index)] for index in indices]
        kept = [sample for sample in samples if not isinstance(sample, Unusable)]
        labels = torch.tensor([sample.target for sample in kept])
        names = [readable_name(name) for name in self.split.class_names]
        return torch.stack([sample.image for sample in kept]), labels, names


class AugmentedFiles(Augmentations):
    """Augmented image files without ground truth."""

    def __init__(self, recipe: Recipe, folder: Path, names: list[str], side: int) -> None:
        super().__init__(recipe, side)
        self.folder, self.names = folder, names

    def original(self, index: int) -> RgbImage:
        return to_rgb(read_pixels(self.folder / self.names[index], reading_of(self.recipe))[0])

    def draw(self, index: int, epoch: int) -> RgbImage:
        return to_rgb(self._drawn(index, epoch))

    def _drawn(self, index: int, epoch: int) -> Tensor:
        """uint8 (3, h, w)."""
        generator = generator_for(self.recipe.train.seed, epoch, index, 0)
        return self.spec.augment_file(self.recipe, self.folder / self.names[index], generator)

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        images = torch.stack([normalize(self._drawn(index, epoch), self.recipe.data.pixels) for index in indices])
        return images, torch.arange(len(indices)), [Path(self.names[index]).stem for index in indices]
