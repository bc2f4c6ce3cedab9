"""ViT-Base on the first stages of a ResNet: the backbone of DPT-Hybrid (DPT section 3.2)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.backbones.vit import Vit
from pvtctl.models.layers.patches import Size, to_tokens
from pvtctl.models.layers.taps import TapName
from pvtctl.models.variants import HYBRID_BLOCKS

WIDTHS = (256, 512, 1024)
"""Widths of the three convolution stages, with strides 4, 8 and 16."""

DEVIATION_FLOOR = 1e-5
"""Added to a kernel's standard deviation before dividing by it (timm 0.4.5, on which DPT was trained)."""


class VitHybrid(Vit):
    """A ViT whose patches are the cells of a ResNet's map of stride 16.

    The pyramid: strides 4 and 8 are the first two stages of that ResNet (taps "R0" and "R1"), stride 16 is the output of
    three quarters of the transformer blocks, stride 32 that of all, resized. Odd sides are rounded up. `stem_groups`: the
    groups of the ResNet's group norms.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        norm_eps: float = 1e-6,
        stem_blocks: tuple[int, int, int] = HYBRID_BLOCKS,
        stem_widths: tuple[int, int, int] = WIDTHS,
        stem_groups: int = 32,
        class_token: bool = False,
        drop_path_rate: float = 0.0,
        image_size: int = 224,
    ) -> None:
        super().__init__(
            patch_size=16,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=True,
            norm_eps=norm_eps,
            class_token=class_token,
            drop_path_rate=drop_path_rate,
            image_size=image_size,
            patch_embed=ResNetEmbed(stem_blocks, stem_widths, embed_dim, stem_groups),
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
        stages, channels = [], inner
        for number, (depth, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if number == 0 else 2
            stages.append(
                nn.Sequential(
                    Bottleneck(channels, width, stride, groups),
                    *(Bottleneck(width, width, 1, groups) for _ in range(depth - 1)),
                )
            )
            channels = width
        self.stages = nn.ModuleList(stages)
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
