"""The public functions. The commands call these same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pvtctl.backbones import Backbone, Classifier, build_backbone, build_classifier
from pvtctl.dense import (
    DenseModel,
    DepthHeadName,
    SegmentationHeadName,
    build_depth_model,
    build_segmenter,
)
from pvtctl.detectors import Detector, HeadName, build_detector

if TYPE_CHECKING:
    from pvtctl.weights import LoadReport


def create_backbone(name: str, weights: str | Path | Mapping[str, Tensor] | None = None, **options: Any) -> Backbone:
    """Build a backbone: images (B, 3, H, W) -> four maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32.

    `name` is one of `pvtctl models ls`, or `timm:NAME`. `weights` is a checkpoint file, a run folder, a published name
    of `pvtctl weights ls`, or a state dict. `options` are those of `pvtctl.backbones.build_backbone`.

    Raises UsageError for unknown names, options and files, and for weights that do not fit.
    """
    backbone = build_backbone(name, **options)
    if weights is not None:
        load_weights(backbone, weights)
    return backbone


def create_classifier(
    name: str, num_classes: int = 1000, weights: str | Path | Mapping[str, Tensor] | None = None, **options: Any
) -> Classifier:
    """Build a classifier: images (B, 3, H, W) -> logits (B, num_classes). Arguments as in `create_backbone`."""
    classifier = build_classifier(name, num_classes=num_classes, **options)
    if weights is not None:
        load_weights(classifier, weights)
    return classifier


def create_detector(
    backbone: str,
    head: HeadName,
    num_classes: int = 80,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Detector:
    """Build a detector: normalised images (B, 3, H, W) -> a list of Detections; with targets, losses.

    `head` is retinanet, mask_rcnn or detr; `options` are those of `pvtctl.detectors.build_detector`. `weights` as in
    `create_backbone`: of a classifier the backbone is taken, of such a detector all.
    """
    detector = build_detector(backbone, head, num_classes=num_classes, **options)
    if weights is not None:
        load_weights(detector, weights)
    return detector


def create_segmenter(
    backbone: str,
    head: SegmentationHeadName,
    num_classes: int,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DenseModel:
    """Build a segmentation model: normalised images (B, 3, H, W) -> logits (B, K, h, w), K classes.

    `model.at_size(model(images), (H, W))` has the images' size. `head` is semantic_fpn, trans2seg, deeplabv3plus or dpt;
    `head_options` are those of `pvtctl.dense.build_segmenter`, `options` those of the backbone. `weights` as in
    `create_backbone`: of a classifier the backbone is taken, of such a segmentation model all.
    """
    model = build_segmenter(
        backbone, head, num_classes=num_classes, head_options=head_options, backbone_options=options
    )
    if weights is not None:
        load_weights(model, weights)
    return model


def create_depth_model(
    backbone: str,
    head: DepthHeadName = "dpt",
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    scale_shift: tuple[float, float] | None = None,
    head_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DenseModel:
    """Build a depth model: normalised images (B, 3, H, W) -> inverse depth (B, 1, h, w), larger for what is nearer.

    With `scale_shift` (a, b) it is a metric one: metres = 1 / (a x + b). The published DPT of KITTI has (6.016e-5,
    0.00579), that of NYUv2 (3.05e-4, 0.1378); unset, it is taken from weights that say it. The
    other arguments are as in `create_segmenter`.
    """
    model = build_depth_model(
        backbone, head, scale_shift=scale_shift, head_options=head_options, backbone_options=options
    )
    if weights is not None:
        found = load_weights(model, weights).scale_shift
        model.scale_shift = scale_shift or found
    return model


def load_weights(module: nn.Module, source: str | Path | Mapping[str, Tensor], partial: bool = False) -> LoadReport:
    """Load a checkpoint of ours or of another project into a backbone, classifier, detector, segmentation or depth model, and
    say what was loaded.

    Raises UsageError when the file is not a checkpoint, holds less than 95 % of the backbone, or a model with another
    head (unless `partial`).
    """
    from pvtctl import weights

    if isinstance(source, str | Path):
        source = weights.resolve_weights(str(source))
    return weights.load_weights(module, source, partial=partial)
