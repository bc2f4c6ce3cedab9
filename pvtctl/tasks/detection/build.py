"""From a recipe or a checkpoint to a detector and its data."""

from __future__ import annotations

from pathlib import Path

import torch

from pvtctl.errors import UsageError
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.structures import DetectOptions
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import BuildRequest, Role
from pvtctl.tasks.classes import Head, training_classes
from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
from pvtctl.tasks.detection.task import DetectionTask, Testing
from pvtctl.tasks.from_recipe import (
    backbone_options,
    data_folder,
    load_given_weights,
    loading_of,
    meta_of,
    split_options,
    warn_of_memory,
    with_start_weights,
)
from pvtctl.weights import load_weights
from pvtctl.weights.describe import Inspected


def detection_split(recipe: Recipe, split: str, role: Role) -> DetectionDataset:
    """A split of a recipe's data, with masks where the head learns them. Raises UsageError."""
    data = recipe.data
    images = data.train_images if split == "train" else data.val_images
    annotations = data.train_annotations if split == "train" else data.val_annotations
    return open_detection_split(
        data.name,
        Path() if annotations and images else data_folder(recipe),
        split,
        settings=data.detection,
        training=role == "train",
        with_masks=recipe.model.head is not None and recipe.model.head.name == "mask_rcnn",
        images=images,
        annotations=annotations,
        **split_options(recipe, split),
    )


def build_detection(request: BuildRequest) -> DetectionTask:
    """Model and data of a recipe. Raises UsageError."""
    recipe, say = request.recipe, request.say
    head = request.head
    assert recipe.model.head is not None  # the schema holds it
    if recipe.train.compile:
        raise UsageError(
            "detectors are not compiled: what they find decides what runs", "leave out --compile and train.compile"
        )
    train = detection_split(recipe, "train", "train") if head is None else None
    val = detection_split(recipe, "val", "evaluate")
    for split, dataset in (("training", train), ("validation", val)):
        if dataset is not None and dataset.problems:
            told = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in dataset.problems.items())
            say(f"{split} annotations: {told}")
    if train is not None:
        _check_same_classes(train, val)
    if head is None:
        names = training_classes(val.class_names, recipe.model.num_classes)
        head = Head(len(names), names)
    training = train is not None
    warn_of_memory(request, _largest(recipe, training=training), training=training)
    classes = head
    model = with_start_weights(recipe, lambda: new_detector(recipe, classes))
    load_given_weights(model, request, head.names)
    return DetectionTask(
        model,
        head_name=recipe.model.head.name,
        head_names=head.names,
        train=train,
        val=val,
        loading=loading_of(request),
        testing=_testing(recipe),
        settings=recipe.data.detection,
        meta={**meta_of(recipe), "num_queries": recipe.model.head.num_queries, "conventions": head.conventions},
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
    if recipe.model.head is not None and recipe.model.head.name == "detr":
        if values.nms_iou is not None:
            raise UsageError("DETR has no NMS, so it takes no NMS IoU", "leave out --nms-iou (eval.nms_iou)")
        if values.scales or values.flip:
            raise UsageError(
                "DETR has no NMS that could merge several views of an image",
                "leave out --scales and --flip (eval.scales, eval.flip)",
            )
    options = DetectOptions(values.score_threshold, values.nms_iou, values.max_detections)
    return Testing(options, values.scales, values.flip, values.backend)


def new_detector(recipe: Recipe, head: Head) -> Detector:
    """The model of a recipe, with starting weights."""
    assert recipe.model.head is not None
    return build_detector(
        recipe.model.backbone.spec,
        recipe.model.head.name,  # type: ignore[arg-type]  # recipe.agreement holds it to those of detection
        num_classes=head.num_classes,
        num_queries=recipe.model.head.num_queries,
        rois_per_image=recipe.model.head.rois_per_image,
        dropout=recipe.model.head.dropout,
        width=recipe.model.head.width,
        conventions=head.conventions,
        backbone_options=backbone_options(recipe.model.backbone),
    )


def load_detector(checkpoint: Inspected, device: torch.device) -> Detector:
    """A checkpoint's detector in evaluation mode. Raises UsageError for weights that do not fit."""
    found = checkpoint.detector
    assert found is not None
    model = build_detector(
        checkpoint.backbone,
        found.head,
        num_classes=found.num_classes,
        num_queries=found.num_queries or 100,
        width=found.width,
        conventions=found.conventions,
    )
    load_weights(model, checkpoint.path, class_names=found.class_names)
    return model.to(device).eval()
