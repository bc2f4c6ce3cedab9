"""The public functions. The commands call these same ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pvtctl.backbones import Backbone, Classifier, build_backbone, build_classifier
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


def load_weights(module: nn.Module, source: str | Path | Mapping[str, Tensor], partial: bool = False) -> LoadReport:
    """Load a checkpoint of ours or of another project into a backbone, classifier or detector, and say what was loaded.

    Raises UsageError when the file is not a checkpoint, or holds less than 95 % of the backbone (unless `partial`).
    """
    from pvtctl import weights

    if isinstance(source, str | Path):
        source = weights.resolve_weights(str(source))
    return weights.load_weights(module, source, partial=partial)
