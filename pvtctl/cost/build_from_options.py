"""Models with options of their own, where `pvtctl.cost.counting.build_model` builds the papers'."""

from __future__ import annotations

import json
from typing import Any, cast

from torch import nn

from pvtctl.cost.counting import Convention, Cost, count_model
from pvtctl.cost.detectors import RawDetector
from pvtctl.models.backbones import build_classifier
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.models.detector import HEADS, Detector, build_detector


def build_own(backbone: str, head: str, num_classes: int | None, options: str) -> nn.Module:
    """A classifier, detector, segmentation or depth model (`num_classes` None) in eval mode, with random weights.

    `options` is a JSON object: `backbone` as `build_backbone` takes them, `head` as `build_detector`, or `head_options` of
    `build_segmenter` and `build_depth_model`, and `scale_shift` of the last. Raises UsageError for what does not fit.
    """
    given: dict[str, Any] = json.loads(options)
    body, top = given.get("backbone", {}), given.get("head", {})
    if head == "classifier":
        return build_classifier(backbone, num_classes=num_classes or 1000, **body).eval()
    if head in HEADS:
        assert num_classes is not None
        return build_detector(backbone, head, num_classes=num_classes, backbone_options=body, **top).eval()
    parts = {"backbone_options": body, "head_options": top}
    if num_classes:
        return build_segmenter(backbone, cast("Any", head), num_classes=num_classes, **parts).eval()
    shift = given.get("scale_shift")
    return build_depth_model(
        backbone, cast("Any", head), scale_shift=None if shift is None else (shift[0], shift[1]), **parts
    ).eval()


def count_own(
    backbone: str,
    head: str,
    num_classes: int | None,
    options: str,
    size: tuple[int, int],
    *,
    convention: Convention = "ops",
) -> Cost:
    """Count such a model on one image of `size` (height, width), as `pvtctl.cost.counting.count` does."""
    import torch

    with torch.device("meta"):
        model = build_own(backbone, head, num_classes, options)
        if isinstance(model, Detector):
            model = RawDetector(model).eval()
    return count_model(model, size, backbone=backbone, head=head, num_classes=num_classes, convention=convention)
