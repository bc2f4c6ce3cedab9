"""Specs of the built-in backbones, from the sizes in `pvtctl.models.variants`, and of timm's. No torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pvtctl.models.registry import DETECTION, BackboneOptions, BackboneSpec, HeadSpec
from pvtctl.models.variants import (
    HYBRID_BLOCKS,
    RESNET_STAGES,
    RESNET_STEM,
    TIMM_PREFIX,
    VARIANTS,
    PvtVariant,
    ResNetVariant,
    Variant,
    VitVariant,
    join_width,
    scaled,
)

if TYPE_CHECKING:
    from pvtctl.models.backbones.base import Backbone


class TransformerOptions(BackboneOptions):
    """Options of PVT v2 and timm's models."""

    drop_path_rate: float = 0.0


class TokenOptions(TransformerOptions):
    """Options of PVT v1 and ViT."""

    class_token: bool = False
    """Add the class token and norm that their classifiers need."""


class ResNetOptions(BackboneOptions):
    """Options of ResNets."""

    frozen_stages: int = 0
    freeze_norm: bool = False
    output_stride: int = 32
    """8 or 16: the last stages are dilated."""


def _sizes(variant: Variant, *left_out: str) -> dict[str, Any]:
    """The variant's sizes, as arguments of its network."""
    return {key: value for key, value in vars(variant).items() if key not in ("family", "params", "source", *left_out)}


def _build(variant: Variant, options: BackboneOptions) -> Backbone:
    from pvtctl.models.backbones.pvt import Pvt, PvtV2
    from pvtctl.models.backbones.resnet import ResNet
    from pvtctl.models.backbones.vit import Vit, VitHybrid

    given = dict(options)
    match variant:
        case PvtVariant(family="pvt_v1"):
            return Pvt(**_sizes(variant, "conv_ffn"), **given)
        case PvtVariant():
            return PvtV2(**_sizes(variant), drop_path_rate=given["drop_path_rate"])
        case VitVariant(stem="patches"):
            return Vit(**_sizes(variant, "stem", "stem_width"), **given)
        case VitVariant(stem_width=width):
            # fewer groups in a narrow model, whose stem would be left with groups of one channel: a norm of single
            # channels over a whole picture takes its colours away
            groups = min(32, width // 8)
            widths = (width, 2 * width, 4 * width)
            return VitHybrid(embed_dim=variant.embed_dim, stem_widths=widths, stem_groups=groups, **given)
        case ResNetVariant():
            del given["image_size"]
            return ResNet(**_sizes(variant), **given)


def _resnet_under(variant: ResNetVariant, head: HeadSpec) -> dict[str, Any]:
    """Detectors freeze stem and stage 1; some segmentation heads use a finer last map."""
    if DETECTION in head.tasks:
        return {"frozen_stages": 1, "freeze_norm": True}
    if head.bottleneck_stride is not None and variant.block == "bottleneck":
        return {"output_stride": head.bottleneck_stride}
    return {}


def _spec(name: str, variant: Variant) -> BackboneSpec:
    """The spec of a built-in backbone, or of a narrower one."""
    match variant:
        case PvtVariant():
            own = _pvt_fields(variant)
        case VitVariant():
            own = _vit_fields(variant)
        case ResNetVariant():
            own = {
                "family_title": "ResNet / ResNeXt",
                "Options": ResNetOptions,
                "under": partial(_resnet_under, variant),
                "blocks": sum(variant.depths),
                "stages": tuple({"depth": depth, "groups": variant.groups} for depth in variant.depths),
                "stage_names": RESNET_STAGES,
                "stem_names": RESNET_STEM,
                "outside": "stem",
            }
    return BackboneSpec(
        name=name,
        family=variant.family,
        build=partial(_build, variant),
        source=variant.source,
        channels=variant.channels,
        params=variant.params,
        **own,
    )


def _pvt_fields(variant: PvtVariant) -> dict[str, Any]:
    first = variant.family == "pvt_v1"
    return {
        "family_title": "PVT v1" if first else "PVT v2",
        "Options": TokenOptions if first else TransformerOptions,
        "counts_layer_norm": not first,
        "blocks": sum(variant.depths),
        "stages": tuple(
            {
                "depth": variant.depths[at],
                "heads": variant.num_heads[at],
                "mlp_ratio": variant.mlp_ratios[at],
                "sr_ratio": "7x7 pool" if variant.linear_sra else variant.sr_ratios[at],
            }
            for at in range(4)
        ),
        "stage_names": tuple((f"stages.{at}.",) for at in range(4)),
        "stem_names": ("stages.0.patch_embed.", "stages.0.pos_embed"),
        "outside": "class token and final norm, for classification only" if first else "",
    }


def _vit_fields(variant: VitVariant) -> dict[str, Any]:
    """A stage is a quarter of a ViT's blocks; a hybrid's ResNet is part of its first three."""
    hybrid, depth = variant.stem == "resnet", variant.depth
    ends = [0, 0, 0, depth * 3 // 4, depth] if hybrid else [depth * at // 4 for at in range(5)]
    blocks = [range(before, after) for before, after in pairwise(ends)]
    names = [tuple(f"blocks.{at}." for at in own) for own in blocks]
    if hybrid:
        stages: list[dict[str, Any]] = [
            {"depth": len(own) + stem, "heads": variant.num_heads if own else "-"}
            for own, stem in zip(blocks, (*HYBRID_BLOCKS, 0), strict=True)
        ]
        names = [(*own, f"patch_embed.stages.{at}.") if at < 3 else own for at, own in enumerate(names)]
    else:
        shared = {"heads": variant.num_heads, "mlp_ratio": variant.mlp_ratio, "patch": variant.patch_size}
        stages = [{"depth": len(own), **shared} for own in blocks]
    return {
        "family_title": "ViT / DeiT",
        "Options": TokenOptions,
        "patch_size": variant.patch_size,
        "one_grid": True,
        "blocks": depth,
        "stages": tuple(stages),
        "stage_names": tuple(names),
        "stem_names": ("patch_embed.", "pos_embed", "class_token", "distillation_token"),
        "outside": "patch embedding, position table, class token, final norm",
    }


def _narrower(name: str, variant: Variant, factor: float) -> BackboneSpec:
    return _spec(join_width(name, factor), scaled(name, variant, factor))


BACKBONES = [
    replace(_spec(name, variant), at_width=partial(_narrower, name, variant)) for name, variant in VARIANTS.items()
]


def timm_spec(name: str) -> BackboneSpec:
    """The spec of `timm:NAME`: any timm model with features."""

    def build(options: TransformerOptions) -> Backbone:
        from pvtctl.models.backbones.timm_bridge import TimmBackbone

        return TimmBackbone(name.removeprefix(TIMM_PREFIX), **dict(options))

    source = "a model of timm"
    return BackboneSpec(name=name, family="timm", source=source, Options=TransformerOptions, build=build, one_grid=True)
