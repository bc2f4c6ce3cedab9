"""Builds a segmentation model and its data from a recipe."""

from __future__ import annotations

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel, build_segmenter
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest
from pvtctl.tasks.dense.build import dense_meta, dense_options, testing_of
from pvtctl.tasks.from_recipe import loading_of, open_splits, settled, start_model, trained_head, warn_of_memory
from pvtctl.tasks.segmentation.task import SegmentationTask
from pvtctl.weights.describe import HeadClasses


def build_segmentation(request: BuildRequest) -> SegmentationTask:
    """Model and data of a recipe. Raises UsageError."""
    train, val = open_splits(request)
    request = settled(request, train, val)
    recipe, own = request.recipe, request.recipe.data.segmentation
    if train is not None and train.class_names != val.class_names:
        raise UsageError("training and validation data have other classes", "give both the same list of classes")
    head = request.head or trained_head(recipe, val)
    warn_of_memory(
        request,
        own.crop if train is not None else (own.test_short_side, own.test_short_side),
        num_classes=head.num_classes,
        output_stride=recipe.model.backbone.output_stride,
    )
    return SegmentationTask(
        start_model(request, head),
        head_names=head.names,
        train=train,
        val=val,
        loading=loading_of(request),
        testing=testing_of(recipe),
        meta=dense_meta(recipe).updated(segmentation=own.plain_values()),
    )


def new_segmenter(recipe: Recipe, head: HeadClasses) -> DenseModel:
    """The model of a recipe, newly initialised."""
    assert recipe.model.head is not None
    options = dense_options(recipe) | {"num_classes": head.num_classes}
    return build_segmenter(recipe.model.backbone.spec, recipe.model.head.name, **options)
