"""Specs of the built-in backbones, from the sizes in `pvtctl.models.variants`, and of timm's. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pvtctl.models.registry import DETECTION, BackboneOptions, BackboneSpec, HeadSpec
from pvtctl.models.variants import (
    HYBRID_BLOCKS,
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

Stage = Mapping[str, Any]


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


def _pvt(variant: PvtVariant, options: TokenOptions) -> Backbone:
    from pvtctl.models.backbones.pvt import Pvt

    return Pvt(
        embed_dims=variant.embed_dims,
        depths=variant.depths,
        num_heads=variant.num_heads,
        mlp_ratios=variant.mlp_ratios,
        sr_ratios=variant.sr_ratios,
        class_token=options.class_token,
        drop_path_rate=options.drop_path_rate,
        image_size=options.image_size,
    )


def _pvt_v2(variant: PvtVariant, options: TransformerOptions) -> Backbone:
    from pvtctl.models.backbones.pvt_v2 import PvtV2

    return PvtV2(
        embed_dims=variant.embed_dims,
        depths=variant.depths,
        num_heads=variant.num_heads,
        mlp_ratios=variant.mlp_ratios,
        sr_ratios=variant.sr_ratios,
        linear_sra=variant.linear_sra,
        conv_ffn=variant.conv_ffn,
        drop_path_rate=options.drop_path_rate,
    )


def _vit(variant: VitVariant, options: TokenOptions) -> Backbone:
    from pvtctl.models.backbones.vit import Vit

    return Vit(
        patch_size=variant.patch_size,
        embed_dim=variant.embed_dim,
        depth=variant.depth,
        num_heads=variant.num_heads,
        mlp_ratio=variant.mlp_ratio,
        qkv_bias=variant.qkv_bias,
        norm_eps=variant.norm_eps,
        class_token=options.class_token,
        distilled=variant.distilled,
        drop_path_rate=options.drop_path_rate,
        image_size=options.image_size,
    )


def _vit_hybrid(variant: VitVariant, options: TokenOptions) -> Backbone:
    from pvtctl.models.backbones.vit_hybrid import VitHybrid

    return VitHybrid(
        embed_dim=variant.embed_dim,
        stem_widths=(variant.stem_width, 2 * variant.stem_width, 4 * variant.stem_width),
        # fewer in a narrow model, whose stem would be left with groups of one channel: a norm of single
        # channels over a whole picture takes its colours away
        stem_groups=min(32, variant.stem_width // 8),
        class_token=options.class_token,
        drop_path_rate=options.drop_path_rate,
        image_size=options.image_size,
    )


def _resnet(variant: ResNetVariant, options: ResNetOptions) -> Backbone:
    from pvtctl.models.backbones.resnet import ResNet

    return ResNet(
        block=variant.block,
        depths=variant.depths,
        groups=variant.groups,
        width_per_group=variant.width_per_group,
        deep_stem=variant.deep_stem,
        context_ratio=variant.context_ratio,
        base_width=variant.base_width,
        frozen_stages=options.frozen_stages,
        freeze_norm=options.freeze_norm,
        output_stride=options.output_stride,
    )


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
            spec = _pvt_spec(name, variant)
        case VitVariant():
            spec = _vit_spec(name, variant)
        case ResNetVariant():
            spec = BackboneSpec(
                name=name,
                family=variant.family,
                family_title="ResNet / ResNeXt",
                Options=ResNetOptions,
                build=partial(_resnet, variant),
                under=partial(_resnet_under, variant),
                blocks=sum(variant.depths),
                stages=tuple({"depth": depth, "groups": variant.groups} for depth in variant.depths),
                stage_names=tuple((f"layer{at}.",) for at in (1, 2, 3, 4)),
                outside="stem",
            )
    return replace(spec, source=variant.source, channels=variant.channels, params=variant.params)


def _pvt_spec(name: str, variant: PvtVariant) -> BackboneSpec:
    first = variant.family == "pvt_v1"
    build: Callable[[Any], Backbone] = partial(_pvt if first else _pvt_v2, variant)
    return BackboneSpec(
        name=name,
        family=variant.family,
        family_title="PVT v1" if first else "PVT v2",
        Options=TokenOptions if first else TransformerOptions,
        build=build,
        counts_layer_norm=not first,
        blocks=sum(variant.depths),
        stages=tuple(
            {
                "depth": variant.depths[at],
                "heads": variant.num_heads[at],
                "mlp_ratio": variant.mlp_ratios[at],
                "sr_ratio": "7x7 pool" if variant.linear_sra else variant.sr_ratios[at],
            }
            for at in range(4)
        ),
        stage_names=tuple((f"stages.{at}.",) for at in range(4)),
        outside="class token and final norm, for classification only" if first else "",
    )


def _vit_spec(name: str, variant: VitVariant) -> BackboneSpec:
    """A stage is a quarter of a ViT's blocks; a hybrid's ResNet is part of its first three."""
    hybrid = variant.stem == "resnet"
    depth = variant.depth
    ends = [0, 0, depth * 3 // 4, depth] if hybrid else [depth * at // 4 for at in (1, 2, 3, 4)]
    blocks = [after - before for before, after in pairwise([0, *ends])]
    names = [tuple(f"blocks.{at}." for at in range(before, after)) for before, after in pairwise([0, *ends])]
    stages: list[Stage]
    if hybrid:
        stages = [
            {"depth": own + stem, "heads": variant.num_heads if own else "-"}
            for own, stem in zip(blocks, (*HYBRID_BLOCKS, 0), strict=True)
        ]
        names = [(*own, *([f"patch_embed.stages.{at}."] if at < 3 else [])) for at, own in enumerate(names)]
    else:
        shared = {"heads": variant.num_heads, "mlp_ratio": variant.mlp_ratio, "patch": variant.patch_size}
        stages = [{"depth": own, **shared} for own in blocks]
    build: Callable[[Any], Backbone] = partial(_vit_hybrid if hybrid else _vit, variant)
    return BackboneSpec(
        name=name,
        family=variant.family,
        family_title="ViT / DeiT",
        Options=TokenOptions,
        build=build,
        patch_size=variant.patch_size,
        one_grid=True,
        blocks=depth,
        stages=tuple(stages),
        stage_names=tuple(names),
        outside="patch embedding, position table, class token, final norm",
    )


def _narrower(name: str, variant: Variant, factor: float) -> BackboneSpec:
    return _spec(join_width(name, factor), scaled(name, variant, factor))


BACKBONES = [
    replace(_spec(name, variant), at_width=partial(_narrower, name, variant)) for name, variant in VARIANTS.items()
]


def timm_spec(name: str) -> BackboneSpec:
    """The spec of `timm:NAME`: any timm model with features."""

    def build(options: TransformerOptions) -> Backbone:
        from pvtctl.models.backbones.timm_bridge import TimmBackbone

        model = name.removeprefix(TIMM_PREFIX)
        return TimmBackbone(model, drop_path_rate=options.drop_path_rate, image_size=options.image_size)

    return BackboneSpec(
        name=name,
        family="timm",
        source="a model of timm",
        Options=TransformerOptions,
        build=build,
        one_grid=True,
    )
