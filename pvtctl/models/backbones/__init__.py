"""Backbones: images -> four maps of strides 4, 8, 16, 32. Built by name, from the numbers in `pvtctl.models.variants`."""

from __future__ import annotations

from typing import assert_never

from torch import nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone
from pvtctl.models.backbones.pvt import Pvt
from pvtctl.models.backbones.pvt_v2 import PvtV2
from pvtctl.models.backbones.resnet import ResNet
from pvtctl.models.backbones.timm_bridge import TimmBackbone
from pvtctl.models.backbones.vit import Vit
from pvtctl.models.backbones.vit_hybrid import VitHybrid
from pvtctl.models.classifier import Classifier
from pvtctl.models.variants import (
    TIMM_PREFIX,
    VARIANTS,
    PvtVariant,
    ResNetVariant,
    VitVariant,
    find_variant,
    known_variant,
)

__all__ = [
    "Backbone",
    "Classifier",
    "Pvt",
    "PvtV2",
    "ResNet",
    "TimmBackbone",
    "Vit",
    "VitHybrid",
    "backbone_names",
    "build_backbone",
    "build_classifier",
    "layer_depths",
    "set_activation_checkpointing",
]


def backbone_names() -> list[str]:
    """The built-in names; `timm:NAME` works besides."""
    return list(VARIANTS)


def build_backbone(
    name: str,
    *,
    class_token: bool = False,
    drop_path_rate: float = 0.0,
    frozen_stages: int = 0,
    freeze_norm: bool = False,
    output_stride: int = 32,
    image_size: int = 224,
) -> Backbone:
    """A backbone with starting weights; `NAME@F`: F times as wide (`pvtctl.models.variants.find_variant`).

    `class_token` (PVT v1, ViT) adds what their classifiers need; `frozen_stages`, `freeze_norm` and
    `output_stride` (8 or 16: the last stages are dilated) are for ResNets; `drop_path_rate` is for all but ResNets. `image_size` (pixels) sizes the position tables of the families that have
    them, and changes nothing in the others; every family takes other sizes too.

    Raises UsageError for an unknown name (with the nearest), and for an option that the family cannot use.
    """
    if not isinstance(name, str):  # a caller's type checker may not be asked
        raise UsageError(f"a backbone is named by a word, not by a {type(name).__name__}", "such as 'pvt_small'")
    if not 0.0 <= drop_path_rate < 1.0:
        raise UsageError(
            f"drop_path_rate {drop_path_rate} is out of range", "it lies in 0 <= rate < 1, mostly 0.1 to 0.3"
        )
    if image_size < 32:
        raise UsageError(f"image size {image_size} is too small", "use at least 32 pixels")
    if name.startswith(TIMM_PREFIX):
        _refuse(
            name,
            class_token=class_token,
            frozen_stages=frozen_stages,
            freeze_norm=freeze_norm,
            output_stride=output_stride != 32,
        )
        return TimmBackbone(name.removeprefix(TIMM_PREFIX), drop_path_rate=drop_path_rate, image_size=image_size)
    variant = find_variant(name)
    match variant:
        case PvtVariant(family="pvt_v1"):
            _refuse(name, frozen_stages=frozen_stages, freeze_norm=freeze_norm, output_stride=output_stride != 32)
            return Pvt(
                embed_dims=variant.embed_dims,
                depths=variant.depths,
                num_heads=variant.num_heads,
                mlp_ratios=variant.mlp_ratios,
                sr_ratios=variant.sr_ratios,
                class_token=class_token,
                drop_path_rate=drop_path_rate,
                image_size=image_size,
            )
        case PvtVariant():
            _refuse(
                name,
                class_token=class_token,
                frozen_stages=frozen_stages,
                freeze_norm=freeze_norm,
                output_stride=output_stride != 32,
            )
            return PvtV2(
                embed_dims=variant.embed_dims,
                depths=variant.depths,
                num_heads=variant.num_heads,
                mlp_ratios=variant.mlp_ratios,
                sr_ratios=variant.sr_ratios,
                linear_sra=variant.linear_sra,
                conv_ffn=variant.conv_ffn,
                drop_path_rate=drop_path_rate,
            )
        case VitVariant():
            _refuse(name, frozen_stages=frozen_stages, freeze_norm=freeze_norm, output_stride=output_stride != 32)
            if variant.stem == "resnet":
                return VitHybrid(
                    embed_dim=variant.embed_dim,
                    stem_widths=(variant.stem_width, 2 * variant.stem_width, 4 * variant.stem_width),
                    # fewer in a narrow model, whose stem would be left with groups of one channel: a norm of single
                    # channels over a whole picture takes its colours away
                    stem_groups=min(32, variant.stem_width // 8),
                    class_token=class_token,
                    drop_path_rate=drop_path_rate,
                    image_size=image_size,
                )
            return Vit(
                patch_size=variant.patch_size,
                embed_dim=variant.embed_dim,
                depth=variant.depth,
                num_heads=variant.num_heads,
                mlp_ratio=variant.mlp_ratio,
                qkv_bias=variant.qkv_bias,
                norm_eps=variant.norm_eps,
                class_token=class_token,
                distilled=variant.distilled,
                drop_path_rate=drop_path_rate,
                image_size=image_size,
            )
        case ResNetVariant():
            _refuse(name, class_token=class_token, drop_path_rate=drop_path_rate)
            return ResNet(
                block=variant.block,
                depths=variant.depths,
                groups=variant.groups,
                width_per_group=variant.width_per_group,
                deep_stem=variant.deep_stem,
                context_ratio=variant.context_ratio,
                base_width=variant.base_width,
                frozen_stages=frozen_stages,
                freeze_norm=freeze_norm,
                output_stride=output_stride,
            )
        case _:
            assert_never(variant)


def _refuse(name: str, **options: float) -> None:
    """Raise UsageError when an option that the backbone `name` cannot use was asked for."""
    for option, value in options.items():
        if value:
            raise UsageError(f"{name} has no {option}", f"leave {option} out for this backbone")


def build_classifier(
    name: str,
    *,
    num_classes: int = 1000,
    drop_path_rate: float = 0.0,
    frozen_stages: int = 0,
    freeze_norm: bool = False,
    output_stride: int = 32,
    image_size: int = 224,
) -> Classifier:
    """A `Classifier` over `build_backbone(name, ...)`, with the class token where the family has one."""
    if num_classes < 1:
        raise UsageError(f"num_classes {num_classes} is out of range", "a classifier needs at least one class")
    variant = known_variant(name)
    backbone = build_backbone(
        name,
        class_token=variant is not None and variant.family in ("pvt_v1", "vit"),
        drop_path_rate=drop_path_rate,
        frozen_stages=frozen_stages,
        freeze_norm=freeze_norm,
        output_stride=output_stride,
        image_size=image_size,
    )
    return Classifier(backbone, num_classes)


def set_activation_checkpointing(model: nn.Module, on: bool) -> None:
    """Switch activation checkpointing of every backbone inside `model`; UsageError where the family cannot."""
    for module in model.modules():
        if isinstance(module, Backbone):
            module.set_activation_checkpointing(on)


def layer_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Depth of every parameter of a model with one backbone, and the depth of the head, for layer-wise learning rates.

    0 is the backbone's first embedding or stem, then one a block; all outside the backbone lies at the second number.
    Raises UsageError for a model without a backbone, or one whose family has no layers to count.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Backbone)]
    if not found:
        raise UsageError(f"{type(model).__name__} has no backbone", "set layer_decay to 1")
    name, backbone = found[0]
    prefix = f"{name}." if name else ""
    head = backbone.num_layers
    depths = {
        parameter: backbone.layer_of(parameter.removeprefix(prefix)) if parameter.startswith(prefix) else head
        for parameter, _ in model.named_parameters()
    }
    return depths, head
