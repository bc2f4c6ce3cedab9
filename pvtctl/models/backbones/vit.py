"""Vision Transformers: plain ones (ViT, DeiT), and ViT-Base on the first stages of a ResNet (DPT-Hybrid)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, Tap, TapName, check_images
from pvtctl.models.layers.attention import SelfAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock, drop_path_rates, initialise_linears, run_block, run_blocks
from pvtctl.models.layers.patches import PatchEmbed, Size, resize_position_table, to_map, to_tokens
from pvtctl.models.variants import HYBRID_BLOCKS

DEVIATION_FLOOR = 1e-5
"""Added to a kernel's standard deviation before dividing by it (timm 0.4.5, on which DPT was trained)."""


class Vit(Backbone):
    """Blocks over one grid of patches and a class token, which is always present.

    The pyramid is made as in PVT v1, Table 8: the maps after each quarter of the blocks (2, 4, 6, 8 of 8), without the
    class token and before the final norm, resized (bilinear) to strides 4, 8, 16, 32. `read_taps` returns the outputs of
    single blocks. `class_token` adds the final norm, used in classification only. `distilled` adds the distillation token
    of distilled DeiTs. `image_size` (pixels, square) sizes the position table; it is resized for other sizes.
    `patch_embed` replaces the patch convolution.

    Initial values are those of timm 0.3.2 and DeiT, from torch's global generator in the order of the modules: linear
    weights, position table and special tokens normal of std 0.02, truncated at +-2; the patch convolution torch's default.
    """

    checkpointing = False

    def __init__(
        self,
        *,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        norm_eps: float = 1e-6,
        class_token: bool = False,
        distilled: bool = False,
        drop_path_rate: float = 0.0,
        image_size: int = 224,
        patch_embed: nn.Module | None = None,
    ) -> None:
        super().__init__((embed_dim,) * 4)
        if image_size < patch_size:
            raise UsageError(f"image size {image_size} is smaller than a patch", f"use at least {patch_size} pixels")
        side = image_size // patch_size
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.depth = depth
        self.grid: Size = (side, side)
        self.tap_channels: dict[TapName, int] = dict.fromkeys(range(1, depth + 1), embed_dim)
        self.default_taps: tuple[TapName, ...] = tuple(depth * quarter // 4 for quarter in (1, 2, 3, 4))
        self.special_tokens = 2 if distilled else 1
        if class_token:
            self.num_features = self.special_tokens * embed_dim
        self.patch_embed = patch_embed or PatchEmbed(3, embed_dim, patch_size, norm=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.special_tokens + side * side, embed_dim))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                SelfAttention(embed_dim, num_heads, qkv_bias=qkv_bias),
                Mlp(embed_dim, embed_dim * mlp_ratio),
                drop_path=rate,
                norm_eps=norm_eps,
            )
            for rate in drop_path_rates(drop_path_rate, depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if class_token else None
        initialise_linears(self)
        for table in (self.pos_embed, self.class_token, self.distillation_token):
            if table is not None:
                nn.init.trunc_normal_(table, std=0.02)

    def _patches(self, images: Tensor) -> tuple[Tensor, Size, dict[TapName, Tensor]]:
        """Patches (B, h*w, C), (h, w), and the maps of the convolution stages before them, by tap name."""
        tokens, size = self.patch_embed(images)
        return tokens, size, {}

    def _embed(self, images: Tensor) -> tuple[Tensor, Size, dict[TapName, Tensor]]:
        """Tokens (B, S + h*w, C), the S special ones first, (h, w), and the convolution stages' maps."""
        check_images(images)
        tokens, size, stages = self._patches(images)
        count = self.special_tokens
        tokens = tokens + resize_position_table(self.pos_embed[:, count:], self.grid, size)
        special: Tensor = self.class_token
        if self.distillation_token is not None:
            special = torch.cat((special, self.distillation_token), dim=1)
        first = (special + self.pos_embed[:, :count]).expand(tokens.shape[0], -1, -1)
        return torch.cat((first, tokens), dim=1), size, stages

    def read_taps(self, images: Tensor, taps: Sequence[TapName]) -> list[Tap]:
        """The outputs of each of `taps` (names in `tap_channels`, in its order); see `pvtctl.models.backbones.base`."""
        tokens, size, stages = self._embed(images)
        found = [Tap(stages[name], None) for name in taps if name in stages]
        for number, block in enumerate(self.blocks, 1):
            if len(found) == len(taps):
                break
            tokens = run_block(block, tokens, size, checkpointing=self.checkpointing)
            if number in taps:
                special, patches = tokens.tensor_split((self.special_tokens,), dim=1)
                found.append(Tap(to_map(patches, size), special))
        return found

    def _pyramid_size(self, images: Tensor, stride: int) -> Size:
        return images.shape[2] // stride, images.shape[3] // stride

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for tap, stride in zip(self.read_taps(images, self.default_taps), self.feature_strides, strict=True):
            x, target = tap.map, self._pyramid_size(images, stride)
            if target != (x.shape[2], x.shape[3]):
                x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
            maps.append(x)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The class token after the final norm, followed by the distillation token, if any; without that norm, the mean over
        the last block's patches.

        A distilled DeiT averages two linear classifiers, one per token: a single one over both tokens is equivalent.
        """
        tokens, size, _ = self._embed(images)
        tokens = run_blocks(self.blocks, tokens, size, checkpointing=self.checkpointing)
        count = self.special_tokens
        return tokens[:, count:].mean(1) if self.norm is None else self.norm(tokens[:, :count]).flatten(1)

    @property
    def num_layers(self) -> int:
        return self.depth + 1

    def layer_of(self, name: str) -> int:
        part = name.split(".")
        match part[0]:
            case "blocks":
                return int(part[1]) + 1
            case "norm":
                return self.depth
            case _:
                return 0

    def set_activation_checkpointing(self, on: bool) -> None:
        self.checkpointing = on


class VitHybrid(Vit):
    """A ViT whose patches are the cells of a ResNet's map of stride 16 (DPT section 3.2).

    The pyramid: strides 4 and 8 are the first two stages of that ResNet (taps "R0" and "R1"), stride 16 is the output of
    three quarters of the transformer blocks, stride 32 that of all, resized. Odd sides are rounded up. `stem_widths`: of
    the ResNet's three stages, with strides 4, 8 and 16; `stem_groups`: of its group norms; `options` are those of `Vit`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        stem_blocks: tuple[int, int, int] = HYBRID_BLOCKS,
        stem_widths: tuple[int, int, int] = (256, 512, 1024),
        stem_groups: int = 32,
        **options: Any,
    ) -> None:
        embed = ResNetEmbed(stem_blocks, stem_widths, embed_dim, stem_groups)
        super().__init__(
            patch_size=16, embed_dim=embed_dim, depth=depth, num_heads=num_heads, patch_embed=embed, **options
        )
        fine, middle, _ = stem_widths
        self.feature_channels = (fine, middle, embed_dim, embed_dim)
        self.tap_channels = {"R0": fine, "R1": middle, **self.tap_channels}
        self.default_taps = ("R0", "R1", depth * 3 // 4, depth)

    def _patches(self, images: Tensor) -> tuple[Tensor, Size, dict[TapName, Tensor]]:
        embed = cast("ResNetEmbed", self.patch_embed)
        fine, middle, coarse = embed.maps(images)
        x = embed.proj(coarse)
        return to_tokens(x), (x.shape[2], x.shape[3]), {"R0": fine, "R1": middle}

    def _pyramid_size(self, images: Tensor, stride: int) -> Size:
        return -(-images.shape[2] // stride), -(-images.shape[3] // stride)


class ResNetEmbed(nn.Module):
    """Stem, three stages of bottlenecks, and the 1x1 convolution from the last stage's cells to tokens.

    It is the ResNet of Big Transfer without its pre-activation: standardised kernels, group norms, and TensorFlow's "same"
    padding.
    """

    def __init__(self, blocks: tuple[int, int, int], widths: tuple[int, int, int], embed_dim: int, groups: int) -> None:
        super().__init__()
        inner = widths[0] // 4
        groups = min(groups, inner)  # of the narrowest norm
        self.stem = StandardizedConv(3, inner, 7, stride=2)
        self.stem_norm = nn.GroupNorm(groups, inner)
        self.stages = nn.ModuleList()
        channels = inner
        for depth, width in zip(blocks, widths, strict=True):
            first = Bottleneck(channels, width, 2 if self.stages else 1, groups)
            self.stages.append(nn.Sequential(first, *(Bottleneck(width, width, 1, groups) for _ in range(depth - 1))))
            channels = width
        self.proj = nn.Conv2d(channels, embed_dim, 1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> the stages' maps, strides 4, 8, 16."""
        x = F.relu(self.stem_norm(self.stem(images)))
        # padding is never the maximum: all values are at least 0 after the ReLU
        x = F.max_pool2d(F.pad(x, same_padding(x, 3, 2)), 3, 2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, each with its norm, plus the shortcut; ReLU after the sum."""

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = width // 4
        self.conv1, self.norm1 = StandardizedConv(channels, inner, 1), nn.GroupNorm(groups, inner)
        self.conv2, self.norm2 = StandardizedConv(inner, inner, 3, stride=stride), nn.GroupNorm(groups, inner)
        self.conv3, self.norm3 = StandardizedConv(inner, width, 1), nn.GroupNorm(groups, width)
        self.shortcut = (
            None
            if stride == 1 and channels == width
            else nn.Sequential(StandardizedConv(channels, width, 1, stride=stride), nn.GroupNorm(groups, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = F.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class StandardizedConv(nn.Conv2d):
    """A convolution whose kernels, one per output channel, are normalised to mean 0 and variance 1; no bias, "same" padding.

    Weight standardisation (arXiv 1903.10520). Initial values: He normal by fan out, as in timm.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / (deviation + DEVIATION_FLOOR)
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:
            return F.conv2d(x, weight, stride=stride)
        if stride == 1:
            return F.conv2d(x, weight, padding=kernel // 2)
        return F.conv2d(F.pad(x, same_padding(x, kernel, stride)), weight, stride=stride)


def same_padding(x: Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) that makes a side of n pixels ceil(n / stride) long; an odd one goes to the end."""
    height, width = (max(kernel - ((side - 1) % stride + 1), 0) for side in (x.shape[2], x.shape[3]))
    return width // 2, width - width // 2, height // 2, height - height // 2
