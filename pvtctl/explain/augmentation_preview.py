"""What training makes of images: the draws of a recipe, exactly as a run with its seed sees them, as pictures."""

from __future__ import annotations

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
from pvtctl.tasks.registry import spec_of


class Augmentations:
    """The training draws of a recipe. `names` are the images': an image has the same name under every recipe."""

    names: list[str]

    def __init__(self, recipe: Recipe, side: int) -> None:
        """`side` in pixels: the width of the pictures, or their longer side."""
        self.recipe, self.side, self.spec = recipe, side, spec_of(recipe)

    def original(self, index: int) -> RgbImage:
        """The image as it lies, with its ground truth. Raises BadImage, OSError."""
        raise NotImplementedError

    def draw(self, index: int, epoch: int) -> RgbImage:
        """What an epoch makes of it. Raises BadImage, OSError."""
        raise NotImplementedError

    def mixed(self, indices: Sequence[int], epoch: int) -> tuple[list[RgbImage], list[str]] | None:
        """The images of a batch of these, mixed by mixup or CutMix, and their soft labels in words; None where the recipe
        does not mix."""
        if not self.spec.mixes(self.recipe):
            return None
        images, labels, names = self._batch(indices, epoch)
        flat = [part for index in indices for part in Draw(epoch, index)]
        key = key_of(self.recipe.train.seed, "batch", *flat)
        mixed, said = self.spec.mix(self.recipe, images, labels, names, key)
        return [to_rgb(denormalize(image)) for image in mixed], said

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        """Images (B, 3, H, W), labels (B,) and class names, before they are mixed."""
        raise NotImplementedError


class AugmentedSplit(Augmentations):
    """Of a recipe's data: a run with the recipe's seed sees the same draws."""

    def __init__(self, recipe: Recipe, split: str, side: int) -> None:
        """Raises UsageError for data that is not there."""
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
    """Of image files, of which nothing is known: only their pixels are drawn."""

    def __init__(self, recipe: Recipe, folder: Path, names: list[str], side: int) -> None:
        super().__init__(recipe, side)
        self.folder, self.names = folder, names

    def original(self, index: int) -> RgbImage:
        return to_rgb(read_pixels(self.folder / self.names[index])[0])

    def draw(self, index: int, epoch: int) -> RgbImage:
        return to_rgb(self._drawn(index, epoch))

    def _drawn(self, index: int, epoch: int) -> Tensor:
        """uint8 (3, h, w)."""
        generator = generator_for(self.recipe.train.seed, epoch, index, 0)
        return self.spec.augment_file(self.recipe, self.folder / self.names[index], generator)

    def _batch(self, indices: Sequence[int], epoch: int) -> tuple[Tensor, Tensor, list[str]]:
        images = torch.stack([normalize(self._drawn(index, epoch)) for index in indices])
        return images, torch.arange(len(indices)), [Path(self.names[index]).stem for index in indices]
