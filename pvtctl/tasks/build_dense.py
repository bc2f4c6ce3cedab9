"""From a recipe to a segmentation or depth task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial as partially
from typing import Any

import torch

from pvtctl.cost.memory import warn_memory
from pvtctl.data.find import find_data
from pvtctl.errors import UsageError
from pvtctl.models.backbones import set_activation_checkpointing
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import Loading
from pvtctl.tasks.classes import training_classes
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.dense.inference import DenseTesting
from pvtctl.tasks.dense.windows import Window
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.depth.metric import DepthMetric
from pvtctl.tasks.depth.ordinal_pairs import read_ordinal_pairs
from pvtctl.tasks.depth.task import DepthTask
from pvtctl.tasks.from_recipe import backbone_options, meta_of, train_batch_size
from pvtctl.tasks.segmentation.data import open_segmentation_split
from pvtctl.tasks.segmentation.task import SegmentationTask
from pvtctl.weights import load_weights
from pvtctl.weights.describe import HeadClasses

Say = Callable[[str], None]


def build_segmentation(
    recipe: Recipe, device: torch.device, world_size: int, head: HeadClasses | None, partial: bool, say: Say
) -> SegmentationTask:
    """The task of a recipe, as `build_task` says. Raises UsageError."""
    train, val = _splits(recipe, training=head is None)
    if train is not None and train.class_names != val.class_names:
        raise UsageError("training and validation data have other classes", "give both the same list of classes")
    if head is None:
        names = training_classes(val.class_names, recipe.model.num_classes)
        head = HeadClasses(len(names), names)
    _warn_of_memory(recipe, device, world_size, head.num_classes, training=train is not None, say=say)
    model = _seeded(recipe, head.num_classes)
    _load(model, recipe, head, partial, say)
    return SegmentationTask(
        model,
        head_names=head.names,
        train=train,
        val=val,
        loading=_loading(recipe, device, world_size),
        testing=testing_of(recipe),
        meta={**_meta(recipe), "segmentation": recipe.data.segmentation.model_dump(mode="json")},
    )


def build_depth(
    recipe: Recipe, device: torch.device, world_size: int, head: HeadClasses | None, partial: bool, say: Say
) -> DepthTask:
    """The task of a recipe, as `build_task` says; any `head` asks for evaluation only. Raises UsageError."""
    train, val = _splits(recipe, training=head is None)
    _warn_of_memory(recipe, device, world_size, None, training=train is not None, say=say)
    model = _seeded(recipe, 0)
    _load(model, recipe, None, partial, say)
    return DepthTask(
        model,
        loss=recipe.train.loss.model_dump(),
        scoring=depth_scoring(recipe, val),
        train=train,
        val=val,
        loading=_loading(recipe, device, world_size),
        testing=testing_of(recipe),
        meta={**_meta(recipe), "depth": recipe.data.depth.model_dump(mode="json")},
    )


def depth_scoring(recipe: Recipe, val: DenseDataset) -> Callable[[], DepthMetric]:
    """Makes the metric of a recipe's `eval` block; a set with ordinal pairs of its validation images has a WHDR too."""
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
    return partially(
        DepthMetric,
        space="metres" if metric else "inverse",
        alignment=alignment,
        min_depth=recipe.data.depth.min_depth,
        max_depth=recipe.eval.max_depth or recipe.data.depth.max_depth,
        crop=recipe.eval.crop,
        pairs=_ordinal_pairs(recipe, val),
    )


def _ordinal_pairs(recipe: Recipe, val: DenseDataset) -> dict[str, Any]:
    if recipe.data.name in ("mix", "scenes"):
        return {}
    names = {val.source.name(index) for index in range(len(val.source))}
    return read_ordinal_pairs(find_data(recipe.data.name, recipe.data.path), names)


def testing_of(recipe: Recipe) -> DenseTesting:
    """Views and windows of a recipe's `eval` block."""
    window = None
    if (size := recipe.eval.window) is not None:
        window = Window(size, recipe.eval.stride or (max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3)))
    return DenseTesting(recipe.eval.ratios, recipe.eval.flip, window)


def _splits(recipe: Recipe, *, training: bool) -> tuple[DenseDataset | None, DenseDataset]:
    data = recipe.data
    root = find_data(data.name, data.path)
    sizes: Mapping[str, Any] = getattr(data, recipe.task).model_dump()
    opened: Callable[..., DenseDataset] = open_segmentation_split if recipe.task == "segmentation" else open_depth_split
    shared = {
        "normalization": data.normalization,
        "image_size": data.image_size,
        "materials": data.scenes.materials,
        "seed": recipe.train.seed,
    }
    scored = sizes
    if recipe.task == "depth" and recipe.eval.max_depth is not None:  # truth up to there is scored, learned or not
        scored = {**sizes, "max_depth": recipe.eval.max_depth}
    val = opened(data.name, root, "val", training=False, samples=data.val_samples, **{recipe.task: scored}, **shared)
    if not training:
        return None, val
    train = opened(
        data.name, root, "train", training=True, samples=data.train_samples, **{recipe.task: sizes}, **shared
    )
    return train, val


def bare_model(recipe: Recipe, num_classes: int) -> DenseModel:
    """The model of a recipe with starting weights; `num_classes` is for segmentation."""
    assert recipe.model.head is not None
    name, head = recipe.model.backbone.spec, recipe.model.head
    options: dict[str, Any] = {
        "head_options": head.said(),
        "backbone_options": backbone_options(recipe.model.backbone),
    }
    if recipe.task == "segmentation":
        return build_segmenter(name, head.name, num_classes=num_classes, **options)
    return build_depth_model(name, head.name, scale_shift=head.metric_scale, **options)


def _seeded(recipe: Recipe, num_classes: int) -> DenseModel:
    """The model with the starting weights of the recipe's seed, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = optimize_for_cpu(bare_model(recipe, num_classes))
    if recipe.train.activation_checkpointing:
        set_activation_checkpointing(model, True)
    return model


def _warn_of_memory(
    recipe: Recipe, device: torch.device, world_size: int, num_classes: int | None, *, training: bool, say: Say
) -> None:
    """Say before anything is built where the images will not fit."""
    assert recipe.model.head is not None
    if recipe.task == "depth":
        size = recipe.data.depth.size if training else recipe.data.depth.test_size
    else:
        own = recipe.data.segmentation
        size = own.crop if training else (own.test_short_side, own.test_short_side)
    warn_memory(
        recipe.model.backbone.spec,
        recipe.model.head.name,
        size,
        train_batch_size(recipe, world_size) if training else recipe.eval.batch_size or 1,
        training=training,
        num_classes=num_classes,
        output_stride=recipe.model.backbone.output_stride,
        device=str(device),
        on_warning=lambda text: say(f"warning: {text}"),
    )


def _load(model: DenseModel, recipe: Recipe, head: HeadClasses | None, partial: bool, say: Say) -> None:
    if recipe.model.weights is not None:
        names = head.names if head is not None else None
        say(load_weights(model, recipe.model.weights, partial=partial, class_names=names).summary())


def _loading(recipe: Recipe, device: torch.device, world_size: int) -> Loading:
    return Loading(
        batch_size=train_batch_size(recipe, world_size),
        eval_batch_size=recipe.eval.batch_size or 1,
        workers=recipe.data.workers,
        pin_memory=device.type == "cuda",
        seed=recipe.train.seed,
    )


def _meta(recipe: Recipe) -> dict[str, Any]:
    assert recipe.model.head is not None
    return {
        **meta_of(recipe),
        "head": recipe.model.head.name,
        "head_options": recipe.model.head.said(),
        "output_stride": recipe.model.backbone.output_stride,
        "position_size": recipe.model.backbone.image_size,
    }
