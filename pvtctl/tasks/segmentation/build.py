"""Builds a segmentation model and its data from a recipe."""

from __future__ import annotations

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel, build_segmenter
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest, Role
from pvtctl.tasks.dense.build import dense_meta, dense_options, testing_of
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.from_recipe import data_folder, loading_of, split_options, start_model, trained_head, warn_of_memory
from pvtctl.tasks.segmentation.data import open_segmentation_split
from pvtctl.tasks.segmentation.task import SegmentationTask
from pvtctl.weights.describe import HeadClasses


def segmentation_split(recipe: Recipe, split: str, role: Role) -> DenseDataset:
    """A split of a recipe's data. Raises UsageError."""
    return open_segmentation_split(
        recipe.data.name,
        data_folder(recipe),
        split,
        settings=recipe.data.segmentation,
        training=role == "train",
        normalization=recipe.data.normalization,
        **split_options(recipe, split),
    )


def build_segmentation(request: BuildRequest) -> SegmentationTask:
    """Model and data of a recipe. Raises UsageError."""
    recipe, own = request.recipe, request.recipe.data.segmentation
    val = segmentation_split(recipe, "val", "evaluate")
    train = segmentation_split(recipe, "train", "train") if request.head is None else None
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
        meta=dense_meta(recipe).updated(segmentation=own.as_json()),
    )


def new_segmenter(recipe: Recipe, head: HeadClasses) -> DenseModel:
    """The model of a recipe, newly initialised."""
    assert recipe.model.head is not None
    options = dense_options(recipe) | {"num_classes": head.num_classes}
    return build_segmenter(recipe.model.backbone.spec, recipe.model.head.name, **options)
