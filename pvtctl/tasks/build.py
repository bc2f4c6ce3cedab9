"""From a recipe to a task: the only place where a recipe's blocks become models and data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import torch

from pvtctl.backbones import Classifier, build_classifier, set_activation_checkpointing
from pvtctl.data import ClassificationDataset, find_data, imagenet_classes, open_split
from pvtctl.engine import FitSettings, resolve_batch_size
from pvtctl.recipe.schema import Backbone, Recipe
from pvtctl.tasks.classes import training_classes
from pvtctl.tasks.classification import ClassificationTask, Loading
from pvtctl.weights import load_weights

LARGEST_EVAL_BATCH = 192
"""1.5 x 128, as the papers' code evaluates."""


@dataclass(frozen=True)
class Head:
    """The classes of a model that is evaluated, where they come from its checkpoint and not from the data."""

    num_classes: int
    names: list[str] | None


def build_task(
    recipe: Recipe,
    *,
    device: torch.device | str,
    world_size: int = 1,
    head: Head | None = None,
    partial: bool = False,
    say: Callable[[str], None] = print,
) -> ClassificationTask:
    """The task of a recipe with its model (weights loaded, reported through `say`) and data.

    With `head` only the validation data is opened, and its classes are matched to the head's by name. `partial` allows
    weights that fill less than 95 % of the backbone. Raises UsageError.
    """
    match recipe.task:
        case "classification":
            return _classification(recipe, torch.device(device), world_size, head, partial, say)
        case _:
            assert_never(recipe.task)


def _classification(
    recipe: Recipe,
    device: torch.device,
    world_size: int,
    head: Head | None,
    partial: bool,
    say: Callable[[str], None],
) -> ClassificationTask:
    train, val = _splits(recipe, training=head is None)
    if head is None:
        names = training_classes(val.class_names, recipe.model.num_classes)
        head = Head(len(names), names)
    model = _classifier(recipe, head.num_classes)
    if recipe.model.weights is not None:
        source_names = list(imagenet_classes()) if head.names is not None else None
        report = load_weights(
            model, recipe.model.weights, partial=partial, class_names=head.names, source_class_names=source_names
        )
        say(report.summary())
    batch_size = train_batch_size(recipe, world_size)
    loading = Loading(
        batch_size=batch_size,
        eval_batch_size=recipe.eval.batch_size or min(max(batch_size * 3 // 2, 1), LARGEST_EVAL_BATCH),
        repeats=recipe.data.augment.repeats,
        workers=recipe.data.workers,
        pin_memory=device.type == "cuda",
        seed=recipe.train.seed,
    )
    return ClassificationTask(
        model,
        num_classes=head.num_classes,
        head_names=head.names,
        train=train,
        val=val,
        loading=loading,
        augment=recipe.data.augment.model_dump(),
        meta=_meta(recipe),
    )


def _splits(recipe: Recipe, *, training: bool) -> tuple[ClassificationDataset | None, ClassificationDataset]:
    data = recipe.data
    root = find_data(data.name, data.path)
    val = open_split(data.name, root, "val", image_size=data.image_size, resize=data.resize, samples=data.val_samples)
    if not training:
        return None, val
    train = open_split(
        data.name,
        root,
        "train",
        image_size=data.image_size,
        resize=data.resize,
        augment=data.augment.model_dump(),
        seed=recipe.train.seed,
        samples=data.train_samples,
    )
    return train, val


def _classifier(recipe: Recipe, num_classes: int) -> Classifier:
    """The model with the starting weights of the recipe's seed, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = build_classifier(
            recipe.model.backbone.name,
            num_classes=num_classes,
            image_size=recipe.data.image_size,
            **_options(recipe.model.backbone),
        )
    if recipe.train.activation_checkpointing:
        set_activation_checkpointing(model, True)
    return model


def _options(backbone: Backbone) -> dict[str, Any]:
    return backbone.model_dump(exclude={"name"})


def _meta(recipe: Recipe) -> dict[str, Any]:
    return {
        "backbone": recipe.model.backbone.name,
        "image_size": recipe.data.image_size,
        "resize": recipe.data.resize,
        "data": recipe.data.name,
        "recipe": recipe.name,
        "row": recipe.row,
        "profile": recipe.profile,
    }


def train_batch_size(recipe: Recipe, world_size: int) -> int:
    """Images per rank and forward pass. Raises UsageError when the total batch does not divide evenly."""
    return resolve_batch_size(recipe.train.total_batch, recipe.train.batch_size, recipe.train.accumulate, world_size)


def fit_settings(recipe: Recipe, world_size: int) -> FitSettings:
    """The recipe's `train` block as the engine takes it."""
    values = recipe.train.model_dump(exclude={"activation_checkpointing"})
    return FitSettings(**values | {"batch_size": train_batch_size(recipe, world_size)})
