"""Sizes of every built-in backbone, as data. No torch.

`pvtctl.models.backbone_specs` registers them, and a test compares the parameter counts with the built models. `NAME@F`
is a narrower or wider model of the same depth and shape: see `scaled`. Sources: PVT v1 Table 1 and its code
(stage 2 of small and medium is printed as 3 blocks but coded, and counted, as 4), PVT v2 Table 1, timm 0.3.2 for the
ViT-Small of PVT v1 Table 8, DeiT Table 1, and torchvision for the ResNets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Literal

from pvtctl.errors import UsageError

Four = tuple[int, int, int, int]
STRIDES: Four = (4, 8, 16, 32)
MIN_SIDE = 32
"""Pixels of the smallest image that a backbone takes."""


def strides_of(patch_sizes: Four) -> Four:
    """Strides of a pyramid's four maps."""
    first, second, third, fourth = accumulate(patch_sizes, mul)
    return first, second, third, fourth


def smallest_side(patch_sizes: Four, sr_ratios: Four, *, linear_sra: bool) -> int:
    """Pixels of the smallest images of a pyramid: each map must have a whole cell of its stage's reduction."""
    reach = [stride * ratio for stride, ratio in zip(strides_of(patch_sizes), sr_ratios, strict=True)]
    return max([MIN_SIDE] if linear_sra else [MIN_SIDE, *reach])


@dataclass(frozen=True, kw_only=True)
class PvtVariant:
    """A Pyramid Vision Transformer; one number per stage."""

    family: Literal["pvt_v1", "pvt_v2"]
    embed_dims: Four
    depths: Four
    num_heads: Four = (1, 2, 5, 8)
    patch_sizes: Four = (4, 2, 2, 2)
    mlp_ratios: Four = (8, 8, 4, 4)
    sr_ratios: Four = (8, 4, 2, 1)
    linear_sra: bool = False
    """Keys and values from a 7x7 average pool in every stage (PVT v2, section 3.2), instead of a strided convolution."""
    conv_ffn: bool = True
    """v2: a depthwise convolution in the feed-forward part."""
    overlap: bool = True
    """v2: the patches overlap."""
    params: int | None
    """Of the classifier with 1000 classes at 224; None for scaled models, which are in no table."""
    source: str

    @property
    def channels(self) -> Four:
        return self.embed_dims


@dataclass(frozen=True, kw_only=True)
class VitVariant:
    """A plain Vision Transformer: one grid, with class token."""

    family: Literal["vit"] = "vit"
    stem: Literal["patches", "resnet"] = "patches"
    """`resnet`: the first three stages of a ResNet-50 (`vit.VitHybrid`) instead of the patch convolution."""
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    qkv_bias: bool = True
    norm_eps: float = 1e-6
    distilled: bool = False
    """A distillation token in addition to the class token."""
    stem_width: int = 256
    """`resnet`: channels of its first stage; the second has twice, the third four times as many."""
    params: int | None
    source: str

    @property
    def channels(self) -> Four:
        stem = (self.stem_width, 2 * self.stem_width) if self.stem == "resnet" else (self.embed_dim,) * 2
        return (*stem, self.embed_dim, self.embed_dim)


@dataclass(frozen=True, kw_only=True)
class ResNetVariant:
    """A torchvision ResNet or ResNeXt."""

    family: Literal["resnet"] = "resnet"
    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: Four
    groups: int = 1
    width_per_group: int = 64
    deep_stem: int = 0
    """Three 3x3 convolutions of this width, this and twice this, instead of the 7x7 one (He et al., arXiv 1812.01187,
    figure 2c); 0: the 7x7 one.
    """
    context_ratio: float | None = None
    """Global context blocks in stages 2 to 4; ratio of their bottleneck's width to the stage's; None: no such blocks."""
    base_width: int = 64
    """Channels of the stem and of the first stage's 3x3 convolutions; each later stage has twice the one before."""
    params: int | None
    source: str

    @property
    def channels(self) -> Four:
        first = self.base_width * (1 if self.block == "basic" else 4)
        return (first, 2 * first, 4 * first, 8 * first)


Variant = PvtVariant | VitVariant | ResNetVariant
HYBRID_BLOCKS = (3, 4, 9)
"""Blocks of the three ResNet stages before a hybrid's transformer."""
RESNET_STEM = ("conv1.", "bn1.")
RESNET_STAGES = (("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",))
"""Prefixes of the names of a ResNet's parameters."""

_GC = "PVT v1, Table 10 (ResNet-50 with the context blocks of GCNet)"
_BASE: Four = (64, 128, 320, 512)

# fmt: off
_v1 = partial(PvtVariant, family="pvt_v1", embed_dims=_BASE, source="PVT v1, Table 1")
PVT_V1 = {
    "pvt_tiny": _v1(depths=(2, 2, 2, 2), params=13_229_288),
    "pvt_small": _v1(depths=(3, 4, 6, 3), params=24_485_864),
    "pvt_medium": _v1(depths=(3, 4, 18, 3), params=44_208_104),
    "pvt_large": _v1(depths=(3, 8, 27, 3), params=61_369_320),
    # Table 9 says 1.4 times the channels and 46.8 M; these widths are inferred from that count
    "pvt_small_wide": _v1(
        embed_dims=(89, 178, 445, 712), depths=(3, 4, 6, 3), params=46_821_764,
        source="PVT v1, Table 9 (widths inferred from its parameter count)"),
    "pvt_huge": _v1(
        embed_dims=(128, 256, 512, 768), depths=(3, 10, 60, 3), num_heads=(2, 4, 8, 12), params=304_945_512,
        source="official PVT code (pvt_huge_v2)"),
}

_v2 = partial(PvtVariant, family="pvt_v2", embed_dims=_BASE, source="PVT v2, Table 1")
PVT_V2 = {
    "pvt_v2_b0": _v2(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2), params=3_666_760),
    "pvt_v2_b1": _v2(depths=(2, 2, 2, 2), params=14_009_000),
    "pvt_v2_b2": _v2(depths=(3, 4, 6, 3), params=25_362_856),
    "pvt_v2_b2_li": _v2(depths=(3, 4, 6, 3), linear_sra=True, params=22_553_512),
    # Table 6, "+ overlapping patch embedding": without position tables it has the 34.9 M printed (with RetinaNet)
    "pvt_v2_b2_plain_ffn": _v2(
        depths=(3, 4, 6, 3), conv_ffn=False, params=25_168_296,
        source="PVT v2, Table 6 (made out from its parameter count)"),
    "pvt_v2_b3": _v2(depths=(3, 4, 18, 3), params=45_238_696),
    "pvt_v2_b4": _v2(depths=(3, 8, 27, 3), params=62_556_072),
    "pvt_v2_b5": _v2(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4), params=81_956_008),
}

_vit_small = partial(
    VitVariant, embed_dim=768, depth=8, num_heads=8, mlp_ratio=3, qkv_bias=False, norm_eps=1e-5,
    source="PVT v1, Table 8 (ViT-Small of timm 0.3.2)")
_deit = partial(VitVariant, patch_size=16, depth=12, source="DeiT, Table 1")
VIT = {
    "vit_small_patch4": _vit_small(patch_size=4, params=50_459_368),
    "vit_small_patch16": _vit_small(patch_size=16, params=48_754_408),
    "vit_small_patch32": _vit_small(patch_size=32, params=50_410_984),
    "deit_tiny_patch16": _deit(embed_dim=192, num_heads=3, params=5_717_416),
    "deit_small_patch16": _deit(embed_dim=384, num_heads=6, params=22_050_664),
    "deit_base_patch16": _deit(embed_dim=768, num_heads=12, params=86_567_656),
    "vit_base_patch16": _deit(embed_dim=768, num_heads=12, params=86_567_656, source="ViT, Table 1"),
    "vit_large_patch16": _deit(embed_dim=1024, depth=24, num_heads=16, params=304_326_632, source="ViT, Table 1"),
    # one classifier over both tokens, where DeiT averages two: the second's 1000 biases are missing
    "deit_base_distilled_patch16": _deit(embed_dim=768, num_heads=12, distilled=True, params=87_337_192),
    "vit_hybrid": _deit(
        stem="resnet", embed_dim=768, num_heads=12, params=98_659_112,
        source="ViT, section 3.1 (its hybrid); DPT, section 3.2"),
}

_resnet = partial(ResNetVariant, source="ResNet (torchvision)")
_resnext = partial(ResNetVariant, source="ResNeXt (torchvision)")
_resnet_c = partial(ResNetVariant, deep_stem=32, source="ResNet-C (arXiv 1812.01187; mmsegmentation's ResNetV1c)")
RESNET = {
    "resnet18": _resnet(block="basic", depths=(2, 2, 2, 2), params=11_689_512),
    "resnet34": _resnet(block="basic", depths=(3, 4, 6, 3), params=21_797_672),
    "resnet50": _resnet(depths=(3, 4, 6, 3), params=25_557_032),
    "resnet101": _resnet(depths=(3, 4, 23, 3), params=44_549_160),
    "resnet152": _resnet(depths=(3, 8, 36, 3), params=60_192_808),
    "resnext50_32x4d": _resnext(depths=(3, 4, 6, 3), groups=32, width_per_group=4, params=25_028_904),
    "resnext101_32x4d": _resnext(depths=(3, 4, 23, 3), groups=32, width_per_group=4, params=44_177_704),
    "resnext101_64x4d": _resnext(depths=(3, 4, 23, 3), groups=64, width_per_group=4, params=83_455_272),
    "resnext101_32x8d": _resnext(depths=(3, 4, 23, 3), groups=32, width_per_group=8, params=88_791_336),
    "resnet18c": _resnet_c(block="basic", depths=(2, 2, 2, 2), params=11_708_744),
    "resnet50c": _resnet_c(depths=(3, 4, 6, 3), params=25_576_264),
    "resnet101c": _resnet_c(depths=(3, 4, 23, 3), params=44_568_392),
    "resnet50s": _resnet_c(
        depths=(3, 4, 6, 3), deep_stem=64, params=25_680_808, source="Trans2Seg's code (there called resnet50c)"),
    "resnet50_gc_r4": _resnet(depths=(3, 4, 6, 3), context_ratio=1 / 4, params=35_557_941, source=_GC),
    "resnet50_gc_r16": _resnet(depths=(3, 4, 6, 3), context_ratio=1 / 16, params=28_078_773, source=_GC),
}
# fmt: on

VARIANTS: dict[str, Variant] = {**PVT_V1, **PVT_V2, **VIT, **RESNET}


def scaled(name: str, variant: Variant, factor: float) -> Variant:
    """`variant`, called `name`, with `factor` times its widths.

    Depth, heads, ratios and patches stay. Widths are rounded to multiples of the heads (ResNets: their base width to a
    multiple of 8; a hybrid's ResNet to a power of two), and never below one per head. Raises UsageError for a factor that
    the family does not support.
    """
    source = f"{variant.source}; {factor:g} times as wide"
    match variant:
        case PvtVariant():
            first, second, third, fourth = (
                _multiple(dim * factor, heads) for dim, heads in zip(variant.embed_dims, variant.num_heads, strict=True)
            )
            return replace(variant, embed_dims=(first, second, third, fourth), params=None, source=source)
        case VitVariant():
            dim = _multiple(variant.embed_dim * factor, variant.num_heads)
            stem = max(32, 2 ** round(math.log2(variant.stem_width * factor)))  # its group norms divide powers of two
            return replace(variant, embed_dim=dim, stem_width=stem, params=None, source=source)
        case ResNetVariant():
            base = _multiple(variant.base_width * factor, 8)
            if variant.width_per_group * base < 64:
                raise UsageError(
                    f"{name}@{factor:g} has groups of less than one channel",
                    f"{name}@{64 / variant.width_per_group / variant.base_width:g}",
                )
            return replace(
                variant,
                base_width=base,
                deep_stem=variant.deep_stem * base // variant.base_width,
                params=None,
                source=source,
            )


def _multiple(width: float, step: int) -> int:
    return max(1, round(width / step)) * step
