"""Parameter names of mmsegmentation's Semantic FPN (also the official PVT repositories') and DeepLabV3+.

Sources: the parameters of the models of mmsegmentation (1.2, whose names are those of 0.x).
"""

from __future__ import annotations

from torch import Tensor

from pvtctl.weights.layouts.base import CheckpointLayout, Rules, State
from pvtctl.weights.layouts.mmdet import NECK

_RULES = Rules(
    *NECK,
    # every second entry of theirs is an upsampling without parameters
    *((f"decode_head.scale_heads.#.{2 * step}.", f"head.scale_heads.#.{step}.") for step in range(5)),
    ("decode_head.conv_seg.", "head.classifier."),
    ("decode_head.image_pool.1.", "head.pool."),
    ("decode_head.aspp_modules.0.", "head.branches.0."),
    ("decode_head.aspp_modules.#.depthwise_conv.", "head.branches.#.0."),
    ("decode_head.aspp_modules.#.pointwise_conv.", "head.branches.#.1."),
    ("decode_head.bottleneck.", "head.projection."),
    ("decode_head.c1_bottleneck.", "head.low_level."),
    ("decode_head.sep_bottleneck.#.depthwise_conv.", "head.decoder.#.0."),
    ("decode_head.sep_bottleneck.#.pointwise_conv.", "head.decoder.#.1."),
    ("auxiliary_head.convs.0.", "head.auxiliary.0."),
    ("auxiliary_head.conv_seg.", "head.auxiliary.2."),
)
_DEEP_STEM = Rules(("backbone.stem.7.", "backbone.bn1."), ("backbone.stem.", "backbone.conv1."))


def to_mmseg(state: State) -> dict[str, Tensor]:
    """Rename a pvtctl Semantic FPN or DeepLabV3+. Of `backbone.*` only a deep stem is renamed, to that of a ResNetV1c."""
    return _RULES.to_theirs(_DEEP_STEM.to_theirs(state) if "backbone.conv1.0.weight" in state else state)


SEMANTIC_FPN = CheckpointLayout(
    "mmsegmentation Semantic FPN",
    ({"decode_head.scale_heads.3.4.conv.weight", "neck.lateral_convs.0.conv.weight"},),
    _RULES.to_ours,
)
DEEPLABV3PLUS = CheckpointLayout(
    "mmsegmentation DeepLabV3+",
    ({"decode_head.aspp_modules.1.depthwise_conv.conv.weight", "decode_head.c1_bottleneck.conv.weight"},),
    _RULES.to_ours,
)
