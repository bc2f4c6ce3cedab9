"""Why a state dict holds no model that pvtctl builds, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pvtctl.weights.recognise import strip_wrappers

_TIMM = "timm has such backbones: --backbone timm:{}, with this file if it is timm's"
# (pattern that one of the names has, model, what to do); the first match counts
_FAMILIES = tuple(
    (re.compile(pattern), model, hint)
    for pattern, model, hint in (
        (r"^(model\.)*\d+\.(cv1|conv|m)\.|\.dfl\.conv\.weight$", "a YOLO of Ultralytics or YOLOv5", "pvtctl has no YOLO: "
         "score its detections with `pvtctl eval coco --results`"),
        (r"^visual\.|^transformer\.resblocks\.|^(vision|text)_model\.", "CLIP, or a relative of it",
         _TIMM.format("vit_base_patch16_clip_224")),
        (r"^(dinov2\.)?(embeddings\.mask_token|encoder\.layer\.\d+\.layer_scale1)|(^|\.)blocks\.(\d+\.)?\d+\.ls1\.gamma$|\.ls1\.lambda1$",
         "a ViT with layer scale (DINOv2 and its relatives)", _TIMM.format("vit_small_patch14_dinov2")),
        (r"relative_position_bias_table$|(^|\.)(swin|swinv2)\.|\.attn\.logit_scale$|\.cpb_mlp\.", "a Swin Transformer, or another with relative positions",
         _TIMM.format("swin_tiny_patch4_window7_224")),
        (r"(^|\.)(downsample_layers\.0\.0|convnext(v2)?\.)|^stages\.\d\.blocks\.\d+\.conv_dw|^stages\.\d\.\d+\.(dwconv|gamma)",
         "a ConvNeXt", _TIMM.format("convnext_tiny")),
        (r"^blocks\.\d\.\d+\.(conv_pw|conv_dw|conv_pwl|bn1)\.|^conv_stem\.", "an EfficientNet or MobileNet",
         _TIMM.format("efficientnet_b0")),
        (r"^features\.\d+\.", "one of torchvision's MobileNets, EfficientNets, DenseNets, VGGs or ConvNeXts",
         "timm has its own of most: --backbone timm:NAME, with timm's weights"),
        (r"^vit\.(encoder\.layer|embeddings)\.|^vit\.layers\.", "transformers' ViT", _TIMM.format("vit_base_patch16_224")),
        (r"(^|\.)(segformer\.|mask_embed|pixel_level_module\.|image_encoder\.blocks\.|mask_decoder\.)",
         "SegFormer, Mask2Former or SAM", "`pvtctl models ls` lists the heads that pvtctl builds"),
        (r"(^|\.)(backbone\.conv_encoder|query_position_embeddings)\.", "a DETR of transformers or its "
         "relatives", "pvtctl reads DETR itself, of facebookresearch, mmdetection and transformers"),
    )
)  # fmt: skip


def explain_unknown(raw: Mapping[str, Tensor], format: str) -> tuple[str, str]:
    """What a file holds whose parameters (under the file's own names) are no known model's, and a hint."""
    return family_of_others(raw) or (
        f"holds no model that pvtctl knows ({format} layout)",
        "`pvtctl weights inspect` shows what is in it, `pvtctl models ls` what is known; --inside KEY takes a part of it",
    )


def family_of_others(raw: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """`explain_unknown` for models of known families alone."""
    names = list(strip_wrappers(raw))
    for pattern, model, hint in _FAMILIES:
        if any(pattern.search(name) for name in names):
            return f"holds {model}, which pvtctl does not build", hint
    return None
