"""From a recipe to a task: the only place where a recipe's blocks become models and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import torch

from pvtctl.cost.memory import warn_memory
from pvtctl.data.class_names import imagenet_classes
from pvtctl.data.find import find_data
from pvtctl.errors import UsageError
from pvtctl.models.backbones import Classifier, build_classifier, set_activation_checkpointing
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.registry import head_spec
from pvtctl.models.structures import DetectOptions
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import Loading
from pvtctl.tasks.build_dense import build_depth, build_segmentation
from pvtctl.tasks.classes import training_classes
from pvtctl.tasks.classification.data import ClassificationDataset, open_split
from pvtctl.tasks.classification.task import ClassificationTask
from pvtctl.tasks.depth.task import DepthTask
from pvtctl.tasks.detection.data import DetectionDataset
from pvtctl.tasks.detection.task import DetectionTask, Testing
from pvtctl.tasks.from_recipe import backbone_options, meta_of, train_batch_size
from pvtctl.tasks.segmentation.task import SegmentationTask
from pvtctl.tasks.splits import open_recipe_split
from pvtctl.weights import load_weights
from pvtctl.weights.describe import HeadClasses

LARGEST_EVAL_BATCH = 192
"""1.5 x 128, as the papers' code evaluates."""


Task = ClassificationTask | DetectionTask | SegmentationTask | DepthTask


def build_task(
    recipe: Recipe,
    *,
    device: torch.device | str,
    world_size: int = 1,
    head: HeadClasses | None = None,
    partial: bool = False,
    say: Callable[[str], None] = print,
) -> Task:
    """The task of a recipe with its model (weights loaded, reported through `say`) and data.

    With `head` only the validation data is opened, and its classes are matched to the head's by name. `partial` allows
    weights that fill less than 95 % of the backbone. Raises UsageError.
    """
    match recipe.task:
        case "classification":
            return _classification(recipe, torch.device(device), world_size, head, partial, say)
        case "detection":
            return _detection(recipe, torch.device(device), world_size, head, partial, say)
        case "segmentation":
            return build_segmentation(recipe, torch.device(device), world_size, head, partial, say)
        case "depth":
            return build_depth(recipe, torch.device(device), world_size, head, partial, say)
        case _:
            assert_never(recipe.task)


def _classification(
    recipe: Recipe,
    device: torch.device,
    world_size: int,
    head: HeadClasses | None,
    partial: bool,
    say: Callable[[str], None],
) -> ClassificationTask:
    train, val = _splits(recipe, training=head is None)
    if head is None:
        names = training_classes(val.class_names, recipe.model.num_classes)
        head = HeadClasses(len(names), names)
    model = optimize_for_cpu(bare_classifier(recipe, head.num_classes))
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
        meta={**meta_of(recipe), "image_size": recipe.data.image_size, "resize": recipe.data.resize},
    )


def _splits(recipe: Recipe, *, training: bool) -> tuple[ClassificationDataset | None, ClassificationDataset]:
    data = recipe.data
    root = find_data(data.name, data.path)
    shared: dict[str, Any] = {"image_size": data.image_size, "resize": data.resize, "materials": data.scenes.materials}
    val = open_split(data.name, root, "val", samples=data.val_samples, **shared)
    if not training:
        return None, val
    train = open_split(
        data.name,
        root,
        "train",
        augment=data.augment.model_dump(),
        seed=recipe.train.seed,
        samples=data.train_samples,
        **shared,
    )
    return train, val


def bare_classifier(recipe: Recipe, num_classes: int) -> Classifier:
    """The model with the starting weights of the recipe's seed, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = build_classifier(
            recipe.model.backbone.spec,
            num_classes=num_classes,
            **backbone_options(recipe.model.backbone) | {"image_size": recipe.data.image_size},
        )
    if recipe.train.activation_checkpointing:
        set_activation_checkpointing(model, True)
    return model


def _detection(
    recipe: Recipe,
    device: torch.device,
    world_size: int,
    head: HeadClasses | None,
    partial: bool,
    say: Callable[[str], None],
) -> DetectionTask:
    assert recipe.model.head is not None  # the schema holds it
    if recipe.train.compile:
        raise UsageError(
            "detectors are not compiled: what they find decides what runs", "leave out --compile and train.compile"
        )
    name = recipe.model.head.name
    with_masks = head_spec(name).needs_masks
    train = _detection_split(recipe, "train", with_masks) if head is None else None
    val = _detection_split(recipe, "val", with_masks)
    for split, dataset in (("training", train), ("validation", val)):
        if dataset is not None and dataset.problems:
            told = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in dataset.problems.items())
            say(f"{split} annotations: {told}")
    if train is not None:
        _check_same_classes(train, val)
    if head is None:
        names = training_classes(val.class_names, recipe.model.num_classes)
        head = HeadClasses(len(names), names)
    _warn_of_memory(recipe, device, world_size, training=train is not None, say=say)
    model = optimize_for_cpu(bare_detector(recipe, head))
    if recipe.model.weights is not None:
        report = load_weights(model, recipe.model.weights, partial=partial, class_names=head.names)
        say(report.summary())
    return DetectionTask(
        model,
        head_name=name,
        head_names=head.names,
        train=train,
        val=val,
        loading=Loading(
            batch_size=train_batch_size(recipe, world_size),
            eval_batch_size=recipe.eval.batch_size or 1,
            workers=recipe.data.workers,
            pin_memory=device.type == "cuda",
            seed=recipe.train.seed,
        ),
        testing=_testing(recipe),
        sizes=recipe.data.detection.model_dump(mode="json"),
        meta={
            **meta_of(recipe),
            "num_queries": getattr(recipe.model.head, "num_queries", 100),
            **({} if head_spec(name).marks else {"head_options": recipe.model.head.said()}),
            "conventions": head.conventions,
        },
    )


def _warn_of_memory(
    recipe: Recipe, device: torch.device, world_size: int, *, training: bool, say: Callable[[str], None]
) -> None:
    """Say before anything is built where the largest images will not fit."""
    assert recipe.model.head is not None
    sizes = recipe.data.detection
    if recipe.data.name == "scenes":
        short = long = max(*sizes.short_sides, sizes.test_short_side)
    elif training:
        short, long = max(sizes.short_sides), sizes.long_side
    else:
        short, long = max(recipe.eval.scales or (sizes.test_short_side,)), sizes.test_long_side
    warn_memory(
        recipe.model.backbone.spec,
        recipe.model.head.name,
        (short, max(short, long)),
        train_batch_size(recipe, world_size) if training else recipe.eval.batch_size or 1,
        training=training,
        device=str(device),
        on_warning=lambda text: say(f"warning: {text}"),
    )


def _detection_split(recipe: Recipe, split: str, with_masks: bool) -> DetectionDataset:
    found = open_recipe_split(recipe, split, training=split == "train", with_masks=with_masks)
    assert isinstance(found, DetectionDataset)
    return found


def _check_same_classes(train: DetectionDataset, val: DetectionDataset) -> None:
    if train.class_names == val.class_names:
        return
    ours, theirs = set(train.class_names), set(val.class_names)
    some = ", ".join(sorted(ours ^ theirs)[:5]) or "their order"
    raise UsageError(
        f"the training and validation annotations have other categories: {some}",
        "give both files the same `categories`, also those without objects",
    )


def _testing(recipe: Recipe) -> Testing:
    values = recipe.eval
    if recipe.model.head is not None and not (spec := head_spec(recipe.model.head.name)).has_nms:
        if values.nms_iou is not None:
            raise UsageError(f"{spec.title} has no NMS, so it takes no NMS IoU", "leave out --nms-iou (eval.nms_iou)")
        if values.scales or values.flip:
            raise UsageError(
                f"{spec.title} has no NMS that could merge several views of an image",
                "leave out --scales and --flip (eval.scales, eval.flip)",
            )
    options = DetectOptions(values.score_threshold, values.nms_iou, values.max_detections)
    return Testing(options, values.scales, values.flip, values.backend)


def bare_detector(recipe: Recipe, head: HeadClasses) -> Detector:
    """The detector with the starting weights of the recipe's seed, the same on every rank."""
    assert recipe.model.head is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = build_detector(
            recipe.model.backbone.spec,
            recipe.model.head.name,
            num_classes=head.num_classes,
            conventions=head.conventions,
            backbone_options=backbone_options(recipe.model.backbone),
            **recipe.model.head.said(),
        )
    if recipe.train.activation_checkpointing:
        set_activation_checkpointing(model, True)
    return model
