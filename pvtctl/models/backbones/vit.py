"""Plain Vision Transformers: ViT-Small as compared in PVT v1, Table 8, DeiT, ViT-Base and ViT-Large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones.base import Backbone, check_images
from pvtctl.models.layers.attention import SelfAttention
from pvtctl.models.layers.block import TransformerBlock, run_block
from pvtctl.models.layers.drop_path import drop_path_rates
from pvtctl.models.layers.mlp import Mlp
from pvtctl.models.layers.patches import PatchEmbed, Size, to_map
from pvtctl.models.layers.position import resize_position_table
from pvtctl.models.layers.taps import Tap, TapName


class Vit(Backbone):
    """Blocks over one grid of patches and a class token, which is always present.

    The pyramid is made as in PVT v1, Table 8: the maps after each quarter of the blocks (2, 4, 6, 8 of 8), without the
    class token and before the final norm, resized (bilinear) to strides 4, 8, 16, 32. `read_taps` returns the outputs of
    single blocks. `class_token` adds the final norm, used in classification only. `distilled` adds the distillation token
    of distilled DeiTs. `image_size` (pixels, square) sizes the position table; it is resized for other sizes.
    `patch_embed` replaces the patch convolution.
    """

    checkpointing = False

    def __init__(
        self,
        *,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: int,
        qkv_bias: bool,
        norm_eps: float,
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
        initialise_vit(self)

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
        """The outputs of each of `taps` (names in `tap_channels`, in its order); see `pvtctl.models.layers.taps`."""
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
        for block in self.blocks:
            tokens = run_block(block, tokens, size, checkpointing=self.checkpointing)
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


def initialise_vit(model: Vit) -> None:
    """Initialise as timm 0.3.2 and DeiT, using torch's global generator in the order of the modules.

    | parameter | values |
    | --- | --- |
    | linear weight, position table, special tokens | normal, std 0.02, truncated at +-2 |
    | linear bias | 0 |
    | layer norm | weight 1, bias 0 |
    | patch convolution | torch's default |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    nn.init.trunc_normal_(model.class_token, std=0.02)
    if model.distillation_token is not None:
        nn.init.trunc_normal_(model.distillation_token, std=0.02)
