"""Builds a depth model and its data from a recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel, build_depth_model
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest
from pvtctl.tasks.dense.build import dense_meta, dense_options, testing_of
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.errors import read_ordinal_pairs
from pvtctl.tasks.depth.metric import DepthMetric
from pvtctl.tasks.depth.task import DepthTask
from pvtctl.tasks.from_recipe import data_folder, loading_of, open_splits, settled, start_model, warn_of_memory
from pvtctl.weights.describe import HeadClasses


def build_depth(request: BuildRequest) -> DepthTask:
    """Model and data of a recipe; any `head` means evaluation only. Raises UsageError."""
    train, val = open_splits(request)
    request = settled(request, train, val)
    recipe, own = request.recipe, request.recipe.data.depth
    warn_of_memory(
        request,
        own.size if train is not None else own.test_size,
        output_stride=recipe.model.backbone.output_stride,
    )
    return DepthTask(
        start_model(request, HeadClasses(0, None)),
        loss=recipe.train.loss,
        scoring=depth_scoring(recipe, val),
        train=train,
        val=val,
        loading=loading_of(request),
        testing=testing_of(recipe),
        meta=dense_meta(recipe).updated(depth=own.plain_values()),
    )


def depth_scoring(recipe: Recipe, val: DenseDataset) -> Callable[[], DepthMetric]:
    """Makes the metric of a recipe's `eval` block; adds WHDR if the set has ordinal pairs."""
    assert recipe.model.head is not None
    metric = recipe.model.head.metric_scale is not None
    alignment = recipe.eval.alignment
    if alignment == "auto":
        alignment = "none" if metric else "scale_shift"
    if alignment == "none" and not metric:
        raise UsageError(
            "inverse depth of an unknown scale cannot be scored without alignment",
            "eval.alignment scale_shift or median (--alignment), or a metric model (model.head.scale_shift)",
        )
    pairs = {}
    if recipe.data.name not in ("mix", "scenes"):
        names = {val.source.name(index) for index in range(len(val.source))}
        pairs = read_ordinal_pairs(data_folder(recipe), names)
    return partial(
        DepthMetric,
        space="metres" if metric else "inverse",
        alignment=alignment,
        min_depth=recipe.data.depth.min_depth,
        max_depth=recipe.eval.max_depth or recipe.data.depth.max_depth,
        crop=recipe.eval.crop,
        pairs=pairs,
    )


def new_depth_model(recipe: Recipe, head: HeadClasses) -> DenseModel:
    """The model of a recipe, newly initialised."""
    assert recipe.model.head is not None
    options = dense_options(recipe) | {"scale_shift": recipe.model.head.metric_scale}
    return build_depth_model(recipe.model.backbone.spec, recipe.model.head.name, **options)
