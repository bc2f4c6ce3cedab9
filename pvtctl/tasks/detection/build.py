"""Builds a detector and its data from a recipe."""

from __future__ import annotations

from pathlib import Path

from pvtctl.errors import UsageError
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.registry import head_spec
from pvtctl.models.structures import DetectOptions
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest, Role
from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
from pvtctl.tasks.detection.task import DetectionTask, Testing
from pvtctl.tasks.from_recipe import (
    backbone_options,
    data_folder,
    loading_of,
    meta_of,
    settled,
    split_options,
    start_model,
    trained_head,
    warn_of_memory,
)
from pvtctl.weights.describe import HeadClasses


def detection_split(recipe: Recipe, split: str, role: Role) -> DetectionDataset:
    """A split of a recipe's data, with masks if the head is trained on them. Raises UsageError."""
    data = recipe.data
    images = data.train_images if split == "train" else data.val_images
    annotations = data.train_annotations if split == "train" else data.val_annotations
    return open_detection_split(
        data.name,
        Path() if annotations and images else data_folder(recipe),
        split,
        settings=data.detection,
        training=role == "train",
        with_masks=recipe.model.head is not None and head_spec(recipe.model.head.name).needs_masks,
        images=images,
        annotations=annotations,
        **split_options(recipe, split),
    )


def build_detection(request: BuildRequest) -> DetectionTask:
    """Model and data of a recipe. Raises UsageError."""
    recipe = request.recipe
    assert recipe.model.head is not None  # ensured by the schema
    if recipe.train.compile:
        raise UsageError(
            "detectors are not compiled: their control flow depends on the data",
            "leave out --compile and train.compile",
        )
    train = detection_split(recipe, "train", "train") if request.head is None else None
    val = detection_split(recipe, "val", "evaluate")
    request = settled(request, train, val)
    recipe = request.recipe
    assert recipe.model.head is not None
    if train is not None:
        _check_same_classes(train, val)
    head = request.head or trained_head(recipe, val)
    warn_of_memory(request, _largest(recipe, training=train is not None))
    return DetectionTask(
        start_model(request, head),
        head_name=recipe.model.head.name,
        head_names=head.names,
        train=train,
        val=val,
        loading=loading_of(request),
        testing=_testing(recipe),
        settings=recipe.data.detection,
        meta=meta_of(recipe).updated(
            num_queries=getattr(recipe.model.head, "num_queries", 100),
            conventions=head.conventions,
            head_options=head_spec(recipe.model.head.name).header_options(recipe.model.head.said()) or None,
        ),
    )


def _largest(recipe: Recipe, *, training: bool) -> tuple[int, int]:
    """(height, width) of the largest images."""
    sizes = recipe.data.detection
    if recipe.data.name == "scenes":
        short = long = max(*sizes.short_sides, sizes.test_short_side)
    elif training:
        short, long = max(sizes.short_sides), sizes.long_side
    else:
        short, long = max(recipe.eval.scales or (sizes.test_short_side,)), sizes.test_long_side
    return short, max(short, long)


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


def new_detector(recipe: Recipe, head: HeadClasses) -> Detector:
    """The model of a recipe, newly initialised."""
    assert recipe.model.head is not None
    return build_detector(
        recipe.model.backbone.spec,
        recipe.model.head.name,
        num_classes=head.num_classes,
        conventions=head.conventions,
        backbone_options=backbone_options(recipe.model.backbone),
        **recipe.model.head.said(),
    )
