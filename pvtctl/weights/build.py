"""Build the model that a checkpoint holds."""

from __future__ import annotations

from typing import Any

from pvtctl.io.console import say_once
from pvtctl.models.backbones import Classifier
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.build import build_backbone, build_classifier
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.registry import DEPTH
from pvtctl.weights.describe import Inspected
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.report import LoadReport

Model = Classifier | Detector | DenseModel


def model_from_checkpoint(
    checkpoint: Inspected, *, image_size: int | None = None, scale_shift: tuple[float, float] | None = None
) -> Model:
    """Build the model of a checkpoint and load its weights, on the CPU with its fast kernels.

    Args:
        checkpoint: From `inspect_checkpoint`; it must have a head.
        image_size: Image size of a classifier's position tables; unset: the checkpoint's, else 224.
        scale_shift: Of a metric depth model; unset: the checkpoint's.

    Raises:
        UsageError: Weights that do not fit.
    """
    assert checkpoint.head is not None
    model = _build(checkpoint, image_size, scale_shift)
    report = load_checkpoint(model, checkpoint.source, class_names=checkpoint.head.names)
    _say(checkpoint, report)
    return optimize_for_cpu(model)


def backbone_from_checkpoint(checkpoint: Inspected) -> Backbone:
    """Build a checkpoint's backbone, without neck and head, and load its weights. Raises UsageError."""
    options = _position_options(checkpoint)
    if checkpoint.above is not None and checkpoint.above.output_stride:
        options["output_stride"] = checkpoint.above.output_stride
    model = build_backbone(checkpoint.backbone, **options)
    _say(checkpoint, load_checkpoint(model, checkpoint.source))
    return optimize_for_cpu(model)


def _say(checkpoint: Inspected, report: LoadReport) -> None:
    for word, text in (("note", report.assumed), ("warning", report.warning)):
        if text:
            say_once(f"{word}: {checkpoint.path}: {text}")


def _position_options(checkpoint: Inspected) -> dict[str, Any]:
    return {"image_size": checkpoint.position_size} if checkpoint.position_size else {}


def _build(checkpoint: Inspected, image_size: int | None, scale_shift: tuple[float, float] | None) -> Model:
    found, name = checkpoint.above, checkpoint.backbone
    assert checkpoint.head is not None
    if found is None:
        size = image_size or checkpoint.meta.image_size or 224
        classes = checkpoint.head.num_classes
        if checkpoint.features_only:
            return build_classifier(build_backbone(name, image_size=size), num_classes=classes)
        return build_classifier(name, num_classes=classes, image_size=size)
    if found.spec.detects:
        classes, conventions = found.num_classes, found.conventions
        return build_detector(name, found.spec, num_classes=classes, conventions=conventions, **found.options)
    body = {"output_stride": found.output_stride or 32, **_position_options(checkpoint)}
    parts: dict[str, Any] = {"head_options": found.options, "backbone_options": body}
    if found.task == DEPTH:
        return build_depth_model(name, found.spec, scale_shift=scale_shift or found.scale_shift, **parts)
    return build_segmenter(name, found.spec, num_classes=found.num_classes, **parts)
