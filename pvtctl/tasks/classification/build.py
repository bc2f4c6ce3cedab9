"""Builds a classifier and its data from a recipe."""

from __future__ import annotations

from pvtctl.data.class_names import imagenet_classes
from pvtctl.models.backbones import Classifier, build_classifier
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest, Role
from pvtctl.tasks.classification.data import ClassificationDataset, open_classification_split
from pvtctl.tasks.classification.task import ClassificationTask
from pvtctl.tasks.from_recipe import (
    backbone_options,
    data_folder,
    loading_of,
    meta_of,
    open_splits,
    settled,
    split_options,
    start_model,
    train_batch_size,
    trained_head,
)
from pvtctl.weights.describe import HeadClasses

LARGEST_EVAL_BATCH = 192
"""1.5 x 128, as in the papers' evaluation code."""


def classification_split(recipe: Recipe, split: str, role: Role) -> ClassificationDataset:
    """A split of a recipe's data. Raises UsageError."""
    augment = recipe.data.augment if role == "train" else None
    return open_classification_split(
        recipe.data.name,
        recipe.data.url or data_folder(recipe),
        split,
        augment=augment,
        resize=recipe.data.resize,
        shards=recipe.data.shards,
        **split_options(recipe, split),
    )


def build_classification(request: BuildRequest) -> ClassificationTask:
    """Model and data of a recipe. Raises UsageError."""
    train, val = open_splits(request)
    request = settled(request, train, val)
    recipe = request.recipe
    head = request.head or trained_head(recipe, val)
    batch_size = train_batch_size(recipe, request.world_size)
    return ClassificationTask(
        start_model(request, head, list(imagenet_classes()) if head.names is not None else None),
        num_classes=head.num_classes,
        head_names=head.names,
        train=train,
        val=val,
        loading=loading_of(
            request,
            eval_batch_size=min(max(batch_size * 3 // 2, 1), LARGEST_EVAL_BATCH),
            repeats=recipe.data.augment.repeats,
        ),
        augment=recipe.data.augment,
        meta=meta_of(recipe).updated(image_size=recipe.data.image_size, resize=recipe.data.resize),
    )


def new_classifier(recipe: Recipe, head: HeadClasses) -> Classifier:
    """The model of a recipe, newly initialised."""
    options = backbone_options(recipe.model.backbone) | {"image_size": recipe.data.image_size}
    return build_classifier(recipe.model.backbone.spec, num_classes=head.num_classes, **options)
