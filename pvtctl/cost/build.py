"""Build models for counting and timing, as in the papers or with other options; random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.io.foreign import parse_json
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.build import as_backbone, build_classifier
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.necks.reading import read_maps
from pvtctl.models.registry import (
    DEPTH,
    DETECTION,
    SEGMENTATION,
    HeadSpec,
    backbone_spec,
    counted_head,
    head_spec,
)

NUM_CLASSES: dict[str, int] = {DETECTION: 80, SEGMENTATION: 150}
"""Number of classes of COCO and ADE20K."""


class RawDetector(nn.Module):
    """Images (B, 3, H, W) -> raw outputs of all network parts of a detector, with its own parameter names.

    Every part runs once, without NMS or RoIAlign (`DetectionHead.raw_outputs`). Images are not padded.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.head
        self.train(detector.training)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = list(read_maps(self.neck, self.backbone, images))
        features = maps if self.neck is None else list(self.neck(maps))
        size = (int(images.shape[2]), int(images.shape[3]))
        return self.head.raw_outputs(features, [size] * len(images), size)


def with_raw_outputs(model: nn.Module) -> nn.Module:
    """A model whose outputs are all tensors: a detector as `RawDetector`, others unchanged."""
    return RawDetector(model) if isinstance(model, Detector) else model


def classes_of(head: str | HeadSpec, num_classes: int | None) -> int | None:
    """Number of classes of a model of `build_model`; None for the bare pyramid and depth. Raises UsageError."""
    if head == "classifier":
        return num_classes or 1000
    spec = None if head == "none" else counted_head(head)
    if spec is None or spec.tasks == (DEPTH,):
        if num_classes is not None:
            what = "the bare pyramid has" if spec is None else f"{spec.name} predicts depth and has"
            raise UsageError(f"{what} no classes", "leave the number of classes out, or name a head that has some")
        return None
    return num_classes or NUM_CLASSES.get(spec.task_of(num_classes))


def build_model(
    backbone: str | Backbone, head: str | HeadSpec, num_classes: int | None = None, output_stride: int | None = None
) -> nn.Module:
    """A model as in the papers, in eval mode, with random weights: a backbone (`none`), Classifier, Detector or DenseModel.

    `num_classes` None: COCO's for a detector, otherwise depth if the head predicts it, else ADE20K's. `output_stride`
    applies to ResNets; unset: the papers' for this head. Raises UsageError for unknown names and options that do not fit.
    """
    classes = classes_of(head, num_classes)
    options: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    if head == "none":
        return as_backbone(backbone, options).eval()
    if head == "classifier":
        return build_classifier(backbone, num_classes=classes or 1000, **options).eval()
    spec = counted_head(head)
    if isinstance(backbone, str):
        options = backbone_spec(backbone).under(spec) | options
    return _build(backbone, spec, classes, options, {})


def build_own(backbone: str, head: str, num_classes: int | None, options: str) -> nn.Module:
    """A model with custom options, in eval mode, with random weights (`num_classes` None or 0: depth).

    `options` is a JSON object: `backbone` as for `build_backbone`, `head` as for the head's builder (detectors also
    `conventions`), and `scale_shift` of a depth model. Raises UsageError for options that do not fit.
    """
    given: dict[str, Any] = parse_json(options, "the options", dict)
    body, top = given.get("backbone", {}), given.get("head", {})
    if head == "classifier":
        return build_classifier(backbone, num_classes=num_classes or 1000, **body).eval()
    return _build(backbone, head_spec(head), num_classes, body, top, given.get("scale_shift"))


def _build(
    backbone: str | Backbone,
    spec: HeadSpec,
    num_classes: int | None,
    body: dict[str, Any],
    top: dict[str, Any],
    scale_shift: Sequence[float] | None = None,
) -> Detector | DenseModel:
    if spec.detects:
        classes = num_classes or NUM_CLASSES[DETECTION]
        return build_detector(backbone, spec, num_classes=classes, backbone_options=body, **top).eval()
    if num_classes:
        return build_segmenter(backbone, spec, num_classes=num_classes, backbone_options=body, head_options=top).eval()
    shift = None if scale_shift is None else (scale_shift[0], scale_shift[1])
    return build_depth_model(backbone, spec, scale_shift=shift, backbone_options=body, head_options=top).eval()
