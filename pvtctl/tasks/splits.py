"""The data of a recipe, split by split, without its model: what pictures of data need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pvtctl.data.find import find_data
from pvtctl.errors import UsageError
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.classification.data import ClassificationDataset, open_split
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
from pvtctl.tasks.segmentation.data import open_segmentation_split

Split = ClassificationDataset | DetectionDataset | DenseDataset
SPLITS = ("train", "val")


def open_recipe_split(recipe: Recipe, split: str, *, training: bool, with_masks: bool = False) -> Split:
    """A split of a recipe's data, as it is trained on (`training`) or tested. `with_masks` is for detection.

    Raises UsageError for a split that there is none of, and for data that is not there or is none of the task.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}", f"one of: {', '.join(SPLITS)}")
    data, seed = recipe.data, recipe.train.seed
    samples = data.train_samples if split == "train" else data.val_samples
    if recipe.task == "classification":
        augment = data.augment if training else None
        root = find_data(data.name, data.path)
        return open_split(
            data.name,
            root,
            split,
            image_size=data.image_size,
            resize=data.resize,
            augment=augment,
            seed=seed,
            samples=samples,
            materials=data.scenes.materials,
        )
    if recipe.task == "detection":
        images = data.train_images if split == "train" else data.val_images
        annotations = data.train_annotations if split == "train" else data.val_annotations
        return open_detection_split(
            data.name,
            Path() if annotations and images else find_data(data.name, data.path),
            split,
            settings=data.detection,
            training=training,
            with_masks=with_masks,
            seed=seed,
            samples=samples,
            image_size=data.image_size,
            materials=data.scenes.materials,
            images=images,
            annotations=annotations,
        )
    opened: Callable[..., DenseDataset] = open_segmentation_split if recipe.task == "segmentation" else open_depth_split
    return opened(
        data.name,
        find_data(data.name, data.path),
        split,
        training=training,
        normalization=data.normalization,
        seed=seed,
        samples=samples,
        image_size=data.image_size,
        materials=data.scenes.materials,
        settings=getattr(data, recipe.task),
    )
