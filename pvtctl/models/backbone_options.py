"""Options of the built-in backbones: how they are used, and the papers' hyperparameters, checked together. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pvtctl.errors import UsageError
from pvtctl.models.registry import BackboneOptions
from pvtctl.models.variants import MIN_SIDE, PvtVariant, ResNetVariant, Variant, VitVariant, strides_of


def _one_per_stage(value: Any) -> Any:
    """Say what is missing as a sentence about stages, not as a missing item."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        given = len(value) if isinstance(value, list | tuple) else "one"
        raise PydanticCustomError(
            "stages", "Input should be four numbers, one per stage ({given} given)", {"given": given}
        )
    return tuple(value)


Channels = Annotated[int, Field(ge=1, le=16384)]
Depth = Annotated[int, Field(ge=1, le=256)]
Ratio = Annotated[int, Field(ge=1, le=64)]
Patch = Annotated[int, Field(ge=1, le=MIN_SIDE)]
StageChannels = Annotated[tuple[Channels, Channels, Channels, Channels], BeforeValidator(_one_per_stage)]
StageDepths = Annotated[tuple[Depth, Depth, Depth, Depth], BeforeValidator(_one_per_stage)]
StageRatios = Annotated[tuple[Ratio, Ratio, Ratio, Ratio], BeforeValidator(_one_per_stage)]


class TransformerOptions(BackboneOptions):
    """Options of PVTs, ViTs and timm's models."""

    drop_path_rate: float = 0.0


class TimmOptions(TransformerOptions):
    """Options of timm's models."""

    classifier: bool = False
    """Add the layers that timm's classifier has before its last linear one."""


class PvtOptions(TransformerOptions):
    """Options of both PVTs. Those below, one number per stage, are None for the named model's own."""

    patch_sizes: StageRatios | None = None
    """P: cells of the map before, on each axis, that become one token. The first two stay 4 and 2; 1 in stage 3 or 4 keeps
    the resolution."""
    embed_dims: StageChannels | None = None
    """C: channels of the maps, multiples of the heads."""
    depths: StageDepths | None = None
    """L: blocks."""
    sr_ratios: StageRatios | None = None
    """R: keys and values are computed from cells of R x R tokens; 1: from every token."""
    num_heads: StageRatios | None = None
    """N: heads of the attention."""
    mlp_ratios: StageRatios | None = None
    """E: width of the feed-forward part, relative to C."""


class PvtV1Options(PvtOptions):
    """Options of PVT v1."""

    class_token: bool = False
    """Add the class token and norm that its classifier needs."""


class PvtV2Options(PvtOptions):
    """Options of PVT v2."""

    linear_sra: bool | None = None
    """Keys and values from a 7x7 average pool, whatever R says."""
    conv_ffn: bool | None = None
    """A depthwise convolution in the feed-forward part."""
    overlap: bool | None = None
    """Patches overlap: kernel 2P - 1, padding P - 1; otherwise kernel P, as in PVT v1."""


class VitOptions(TransformerOptions):
    """Options of ViTs. Those below `class_token` are None for the named model's own."""

    class_token: bool = False
    """Add the class token and norm that their classifiers need."""
    embed_dim: Channels | None = None
    """Channels of the tokens, a multiple of the heads."""
    depth: Annotated[int, Field(ge=4, le=256)] | None = None
    """Blocks; the four maps are those after each quarter."""
    num_heads: Ratio | None = None
    mlp_ratio: Ratio | None = None
    """Width of the feed-forward part, relative to the tokens'."""


class PlainVitOptions(VitOptions):
    """Options of ViTs on patches."""

    patch_size: Patch | None = None
    """Side of the patches in pixels."""


class ResNetOptions(BackboneOptions):
    """Options of ResNets. Those below `output_stride` are None for the named model's own."""

    frozen_stages: int = 0
    freeze_norm: bool = False
    output_stride: int = 32
    """8 or 16: the last stages are dilated."""
    depths: StageDepths | None = None
    """Blocks per stage."""
    base_width: Annotated[int, Field(ge=8, le=2048, multiple_of=8)] | None = None
    """Channels of the stem and of the first stage's 3x3 convolutions; each later stage has twice the one before."""
    groups: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Of the 3x3 convolutions (ResNeXt's cardinality)."""
    width_per_group: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Channels of a group in the first stage, at a base width of 64."""


def options_class(variant: Variant) -> type[BackboneOptions]:
    """The options of a variant's family."""
    match variant:
        case PvtVariant(family="pvt_v1"):
            return PvtV1Options
        case PvtVariant():
            return PvtV2Options
        case VitVariant(stem="patches"):
            return PlainVitOptions
        case VitVariant():
            return VitOptions
        case ResNetVariant():
            return ResNetOptions


def changed(name: str, variant: Variant, options: Mapping[str, Any]) -> Variant:
    """`variant`, called `name`, with these of its sizes, which are checked together. Raises UsageError with all faults."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    result = replace(variant, **values, params=None, source=f"{variant.source}; with other sizes")
    if isinstance(variant, ResNetVariant) and isinstance(result, ResNetVariant):  # the stem keeps its share
        result = replace(result, deep_stem=variant.deep_stem * result.base_width // variant.base_width)
    if faults := list(_faults(result, options)):
        raise UsageError(f"{name}: {'; '.join(faults)}", f"`pvtctl models show {name}` prints its own options")
    return result


def _faults(variant: Variant, options: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit together."""
    match variant:
        case PvtVariant():
            for stage, (dim, heads) in enumerate(zip(variant.embed_dims, variant.num_heads, strict=True), 1):
                if dim % heads:
                    yield f"embed_dims {dim} of stage {stage} is not a multiple of num_heads {heads}"
            strides = strides_of(variant.patch_sizes)
            if strides[:2] != (4, 8) or max(variant.patch_sizes[2:]) > 2:
                yield (
                    f"patch_sizes {_listed(variant.patch_sizes)} give maps of strides {_listed(strides)}, "
                    "and heads need 4, 8, 16, 32: 4, 2, then 2 or 1"
                )
            if variant.family == "pvt_v1" and variant.sr_ratios[3] > 1:
                yield "sr_ratios in stage 4 of PVT v1 is 1: its class token is on no map that could be reduced"
            if variant.linear_sra and "sr_ratios" in options:
                yield "sr_ratios change nothing under linear_sra, which pools to 7x7 (linear_sra=false)"
        case VitVariant(embed_dim=dim, num_heads=heads) if dim % heads:
            yield f"embed_dim {dim} is not a multiple of num_heads {heads}"
        case ResNetVariant(block="basic") if variant.groups > 1 or variant.width_per_group != 64:
            yield "groups and width_per_group are for bottleneck blocks, and this ResNet has basic ones"
        case ResNetVariant() if variant.width_per_group * variant.base_width < 64:
            yield f"groups of {variant.width_per_group} x {variant.base_width} / 64 channels have less than one"
        case _:
            return


def _listed(numbers: Any) -> str:
    return ", ".join(map(str, numbers))
