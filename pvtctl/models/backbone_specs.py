"""Specs of the built-in backbones, from the sizes in `pvtctl.models.variants`, and of timm's. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pvtctl.models.backbone_names import TIMM_PREFIX, join_name
from pvtctl.models.backbone_options import TimmOptions, changed, options_class
from pvtctl.models.registry import DETECTION, USE_OPTIONS, BackboneOptions, BackboneSpec, HeadSpec
from pvtctl.models.variants import (
    HYBRID_BLOCKS,
    RESNET_STAGES,
    RESNET_STEM,
    VARIANTS,
    PvtVariant,
    ResNetVariant,
    Variant,
    VitVariant,
    scaled,
    smallest_side,
)

if TYPE_CHECKING:
    from pvtctl.models.backbones.base import Backbone


def _sizes(variant: Variant, *left_out: str) -> dict[str, Any]:
    """The variant's sizes, as arguments of its network."""
    return {key: value for key, value in vars(variant).items() if key not in ("family", "params", "source", *left_out)}


def _build(variant: Variant, options: BackboneOptions) -> Backbone:
    from pvtctl.models.backbones.pvt import Pvt, PvtV2
    from pvtctl.models.backbones.resnet import ResNet
    from pvtctl.models.backbones.vit import Vit, VitHybrid

    given = {key: value for key, value in options if key in USE_OPTIONS}
    match variant:
        case PvtVariant(family="pvt_v1"):
            return Pvt(**_sizes(variant, "conv_ffn", "overlap"), **given)
        case PvtVariant():
            return PvtV2(**_sizes(variant), drop_path_rate=given["drop_path_rate"])
        case VitVariant(stem="patches"):
            return Vit(**_sizes(variant, "stem", "stem_width"), **given)
        case VitVariant(stem_width=width):
            # fewer groups in a narrow model, whose stem would be left with groups of one channel: a norm of single
            # channels over a whole picture takes its colours away
            groups = min(32, width // 8)
            widths = (width, 2 * width, 4 * width)
            sizes = {key: getattr(variant, key) for key in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
            return VitHybrid(**sizes, stem_widths=widths, stem_groups=groups, **given)
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


def _spec(name: str, width: float = 1.0, chosen: Mapping[str, Any] | None = None) -> BackboneSpec:
    """The spec of a built-in backbone; with other options, which are stated at width 1, or narrower or wider."""
    chosen = chosen or {}
    own = VARIANTS[name]
    variant = changed(name, own, chosen) if chosen else own
    if width != 1:
        variant = scaled(name, variant, width)
    match variant:
        case PvtVariant():
            fields = _pvt_fields(variant)
        case VitVariant():
            fields = _vit_fields(variant)
        case ResNetVariant():
            fields = _resnet_fields(variant)
    Options = options_class(variant)
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(own).items()}
    return BackboneSpec(
        name=join_name(name, width, chosen),
        family=variant.family,
        Options=Options,
        build=partial(_build, variant),
        at_width=lambda factor: _spec(name, factor, chosen),
        vary=partial(_spec, name, width),
        own_options={key: value for key, value in sizes.items() if key in Options.model_fields},
        chosen=chosen,
        source=variant.source,
        channels=variant.channels,
        params=variant.params,
        **fields,
    )


def _resnet_fields(variant: ResNetVariant) -> dict[str, Any]:
    return {
        "family_title": "ResNet / ResNeXt",
        "under": partial(_resnet_under, variant),
        "blocks": sum(variant.depths),
        "stages": tuple({"depth": depth, "groups": variant.groups} for depth in variant.depths),
        "stage_names": RESNET_STAGES,
        "stem_names": RESNET_STEM,
        "outside": "stem",
    }


def _pvt_fields(variant: PvtVariant) -> dict[str, Any]:
    first = variant.family == "pvt_v1"
    return {
        "family_title": "PVT v1" if first else "PVT v2",
        "min_side": smallest_side(variant.patch_sizes, variant.sr_ratios, linear_sra=variant.linear_sra),
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
        "patch_size": variant.patch_size,
        "one_grid": True,
        "blocks": depth,
        "stages": tuple(stages),
        "stage_names": tuple(names),
        "stem_names": ("patch_embed.", "pos_embed", "class_token", "distillation_token"),
        "outside": "patch embedding, position table, class token, final norm",
    }


BACKBONES = [_spec(name) for name in VARIANTS]


def timm_spec(name: str) -> BackboneSpec:
    """The spec of `timm:NAME`: any timm model with features."""

    def build(options: TimmOptions) -> Backbone:
        from pvtctl.models.backbones.timm_bridge import TimmBackbone

        return TimmBackbone(name.removeprefix(TIMM_PREFIX), **dict(options))

    source = "a model of timm"
    return BackboneSpec(name=name, family="timm", source=source, Options=TimmOptions, build=build, one_grid=True)
