"""Segmentation and depth models as they are counted and timed: as the papers built them, with random weights."""

from __future__ import annotations

from typing import Any, cast, get_args

from pvtctl.models.dense import DenseModel, DepthHeadName, SegmentationHeadName, build_depth_model, build_segmenter
from pvtctl.models.variants import ResNetVariant, known_variant

NUM_CLASSES = 150
"""ADE20K's."""
STRIDED = ("trans2seg", "deeplabv3plus")
"""Heads under which the papers' ResNets keep an output stride of 16 (PVT v1, Table 7)."""


def build_dense_as_papers(
    backbone: str, head: str, num_classes: int | None, output_stride: int | None = None
) -> DenseModel:
    """The model in eval mode with random weights; `num_classes` None asks for depth.

    `output_stride` is a ResNet's; unset: 32, and 16 under the heads of STRIDED where the ResNet has bottlenecks. Raises
    UsageError for unknown names and options that do not fit.
    """
    variant = known_variant(backbone)
    if (
        output_stride is None
        and head in STRIDED
        and isinstance(variant, ResNetVariant)
        and variant.block == "bottleneck"
    ):
        output_stride = 16
    options: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    if num_classes is None:
        assert head in get_args(DepthHeadName)
        return build_depth_model(backbone, cast("DepthHeadName", head), backbone_options=options).eval()
    return build_segmenter(
        backbone, cast("SegmentationHeadName", head), num_classes=num_classes, backbone_options=options
    ).eval()
