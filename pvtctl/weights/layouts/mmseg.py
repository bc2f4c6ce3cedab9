"""Parameter names of mmsegmentation's Semantic FPN (also the official PVT repositories') and DeepLabV3+, and pvtctl's.

Sources: the parameters of the models of mmsegmentation (1.2, whose names are those of 0.x).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pvtctl.weights.layouts.mmdet import renamed

_SCALE_HEAD = re.compile(r"decode_head\.scale_heads\.(\d)\.(\d)\.(.+)")
_OUR_SCALE_HEAD = re.compile(r"head\.scale_heads\.(\d)\.(\d)\.(.+)")
_NECK = (
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"neck.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"neck.layer_blocks.\1.0."),
)
_HEAD = (
    (r"decode_head\.conv_seg\.", "head.classifier."),
    (r"decode_head\.image_pool\.1\.", "head.pool."),
    (r"decode_head\.aspp_modules\.0\.", "head.branches.0."),
    (r"decode_head\.aspp_modules\.([123])\.depthwise_conv\.", r"head.branches.\1.0."),
    (r"decode_head\.aspp_modules\.([123])\.pointwise_conv\.", r"head.branches.\1.1."),
    (r"decode_head\.bottleneck\.", "head.projection."),
    (r"decode_head\.c1_bottleneck\.", "head.low_level."),
    (r"decode_head\.sep_bottleneck\.([01])\.depthwise_conv\.", r"head.decoder.\1.0."),
    (r"decode_head\.sep_bottleneck\.([01])\.pointwise_conv\.", r"head.decoder.\1.1."),
    (r"auxiliary_head\.convs\.0\.", "head.auxiliary.0."),
    (r"auxiliary_head\.conv_seg\.", "head.auxiliary.2."),
)
_TO_OFFICIAL = (
    (r"neck\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"neck\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"head\.classifier\.", "decode_head.conv_seg."),
    (r"head\.pool\.", "decode_head.image_pool.1."),
    (r"head\.branches\.0\.", "decode_head.aspp_modules.0."),
    (r"head\.branches\.([123])\.0\.", r"decode_head.aspp_modules.\1.depthwise_conv."),
    (r"head\.branches\.([123])\.1\.", r"decode_head.aspp_modules.\1.pointwise_conv."),
    (r"head\.projection\.", "decode_head.bottleneck."),
    (r"head\.low_level\.", "decode_head.c1_bottleneck."),
    (r"head\.decoder\.([01])\.0\.", r"decode_head.sep_bottleneck.\1.depthwise_conv."),
    (r"head\.decoder\.([01])\.1\.", r"decode_head.sep_bottleneck.\1.pointwise_conv."),
    (r"head\.auxiliary\.0\.", "auxiliary_head.convs.0."),
    (r"head\.auxiliary\.2\.", "auxiliary_head.conv_seg."),
)


def is_semantic_fpn(keys: set[str]) -> bool:
    """Whether this is mmsegmentation's Semantic FPN with a plain FPN."""
    return {"decode_head.scale_heads.3.4.conv.weight", "neck.lateral_convs.0.conv.weight"} <= keys


def is_deeplabv3plus(keys: set[str]) -> bool:
    """Whether this is mmsegmentation's DeepLabV3+ with separable convolutions."""
    return {"decode_head.aspp_modules.1.depthwise_conv.conv.weight", "decode_head.c1_bottleneck.conv.weight"} <= keys


def from_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename neck and head of either to pvtctl's names. `backbone.*` and unknown names are kept."""
    return {_to_ours(key): value for key, value in state.items()}


def _to_ours(key: str) -> str:
    if found := _SCALE_HEAD.fullmatch(key):
        # every second entry of theirs is an upsampling without parameters
        return f"head.scale_heads.{found[1]}.{int(found[2]) // 2}.{found[3]}"
    return renamed(key, (*_NECK, *_HEAD))


def to_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_mmseg`, for the names of a pvtctl Semantic FPN or DeepLabV3+. Of `backbone.*` only a deep stem
    is renamed, to that of a ResNetV1c.
    """
    deep = "backbone.conv1.0.weight" in state
    return {_from_ours(key, deep): value for key, value in state.items()}


def _from_ours(key: str, deep: bool) -> str:
    if found := _OUR_SCALE_HEAD.fullmatch(key):
        return f"decode_head.scale_heads.{found[1]}.{2 * int(found[2])}.{found[3]}"
    if deep and key.startswith(("backbone.conv1.", "backbone.bn1.")):
        return key.replace("backbone.bn1.", "backbone.stem.7.").replace("backbone.conv1.", "backbone.stem.")
    return renamed(key, _TO_OFFICIAL)
