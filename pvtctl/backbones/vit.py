"""Plain Vision Transformers: the ViT-Small that PVT compares with (PVT v1, Table 8), DeiT, ViT-Base."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.backbones.base import Backbone, check_images
from pvtctl.errors import UsageError
from pvtctl.layers.attention import SelfAttention
from pvtctl.layers.block import Block, run_block
from pvtctl.layers.drop_path import drop_path_rates
from pvtctl.layers.mlp import Mlp
from pvtctl.layers.patches import PatchEmbed, Size, to_map
from pvtctl.layers.position import resize_position_table


class Vit(Backbone):
    """A column of blocks over one grid of patches and a class token, which it always keeps.

    The pyramid is made as in PVT v1, Table 8: the maps after each quarter of the blocks (2, 4, 6, 8 of 8), without the
    class token and before the final norm, resized (bilinear) to strides 4, 8, 16, 32. `class_token` asks for the final
    norm, which only classification uses. `image_size` (pixels, square) sizes the position table; others resize it.
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
        drop_path_rate: float = 0.0,
        image_size: int = 224,
    ) -> None:
        super().__init__((embed_dim,) * 4)
        if image_size < patch_size:
            raise UsageError(f"image size {image_size} is smaller than a patch", f"use at least {patch_size} pixels")
        side = image_size // patch_size
        self.patch_size = patch_size
        self.depth = depth
        self.grid: Size = (side, side)
        self.taps = tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
        self.patch_embed = PatchEmbed(3, embed_dim, patch_size, norm=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, embed_dim))
        self.blocks = nn.ModuleList(
            Block(
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

    def _embed(self, images: Tensor) -> tuple[Tensor, Size]:
        """Tokens (B, 1 + h*w, C), the class token first, and (h, w)."""
        check_images(images)
        tokens, size = self.patch_embed(images)
        tokens = tokens + resize_position_table(self.pos_embed[:, 1:], self.grid, size)
        first = (self.class_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat((first, tokens), dim=1), size

    def forward(self, images: Tensor) -> list[Tensor]:
        tokens, size = self._embed(images)
        maps: list[Tensor] = []
        for depth, block in enumerate(self.blocks):
            tokens = run_block(block, tokens, size, checkpointing=self.checkpointing)
            if depth in self.taps:
                stride = self.feature_strides[len(maps)]
                target = images.shape[2] // stride, images.shape[3] // stride
                x = to_map(tokens[:, 1:], size)
                if target != size:
                    x = F.interpolate(x, size=target, mode="bilinear", align_corners=False)
                maps.append(x)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The class token after the final norm; without that norm, the mean over the last block's patches."""
        tokens, size = self._embed(images)
        for block in self.blocks:
            tokens = run_block(block, tokens, size, checkpointing=self.checkpointing)
        return tokens[:, 1:].mean(1) if self.norm is None else self.norm(tokens[:, 0])

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
    """Starting values (timm 0.3.2 and DeiT), drawn from torch's global generator in the order of the modules.

    | parameter | values |
    | --- | --- |
    | linear weight, position table, class token | normal, std 0.02, truncated at +-2 |
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
