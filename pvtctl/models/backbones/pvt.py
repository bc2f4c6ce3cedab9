"""Pyramid Vision Transformer, version 1 (arXiv 2102.12122, section 3 and Table 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvtctl.models.backbones.base import PyramidStage, PyramidTransformer, check_images
from pvtctl.models.layers.attention import SpatialReductionAttention
from pvtctl.models.layers.block import TransformerBlock, run_blocks
from pvtctl.models.layers.drop_path import drop_path_rates
from pvtctl.models.layers.mlp import Mlp
from pvtctl.models.layers.patches import PatchEmbed, Size, to_map
from pvtctl.models.layers.position import resize_position_table
from pvtctl.models.variants import STRIDES, Four

NORM_EPS = 1e-6
"""Of the blocks and the final norm; patch embeddings and spatial reductions use 1e-5."""


class PvtStage(PyramidStage):
    """Patch embedding, position table, blocks.

    `pos_embed` (1, N, C) belongs to `grid` (h, w); with `class_slot` its first row is the class token's, even if the
    model has none.
    """

    def __init__(
        self, patch_embed: PatchEmbed, blocks: list[TransformerBlock], dim: int, grid: Size, *, class_slot: bool
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.grid = grid
        self.class_slot = class_slot
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + class_slot, dim))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, class_token: Tensor | None = None) -> tuple[Tensor, Size]:
        """Map (B, C, H, W) -> tokens (B, N, dim), the class token first if given, and their (h, w)."""
        tokens, size = self.patch_embed(x)
        table = self.pos_embed[:, 1:] if self.class_slot else self.pos_embed
        tokens = tokens + resize_position_table(table, self.grid, size)
        if class_token is not None:
            first = (class_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat((first, tokens), dim=1)
        return run_blocks(self.blocks, tokens, size, checkpointing=self.checkpointing), size


class Pvt(PyramidTransformer):
    """PVT v1.

    The class token exists in stage 4 only, and only with `class_token`; dense prediction uses neither it nor a norm on
    the maps. `image_size` (pixels, square) sizes the position tables; they are resized for other sizes.
    """

    def __init__(
        self,
        *,
        embed_dims: Four,
        depths: Four,
        num_heads: Four,
        mlp_ratios: Four,
        sr_ratios: Four,
        class_token: bool = False,
        drop_path_rate: float = 0.0,
        image_size: int = 224,
    ) -> None:
        super().__init__(embed_dims)
        self.depths = depths
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, dim in enumerate(embed_dims):
            blocks = [
                TransformerBlock(
                    dim,
                    SpatialReductionAttention(dim, num_heads[i], sr_ratios[i]),
                    Mlp(dim, dim * mlp_ratios[i]),
                    drop_path=next(rates),
                    norm_eps=NORM_EPS,
                )
                for _ in range(depths[i])
            ]
            patch_embed = PatchEmbed(embed_dims[i - 1] if i else 3, dim, 2 if i else 4)
            side = image_size // STRIDES[i]
            stages.append(PvtStage(patch_embed, blocks, dim, (side, side), class_slot=i == 3))
        self.stages = nn.ModuleList(stages)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dims[-1])) if class_token else None
        self.norm = nn.LayerNorm(embed_dims[-1], eps=NORM_EPS) if class_token else None
        initialise_pvt(self)

    def _stages(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four maps, and the class token (B, C) before the final norm (empty width without one)."""
        check_images(images)
        maps: list[Tensor] = []
        x = images
        for i, stage in enumerate(self.stages):
            tokens, size = stage(x, self.class_token if i == 3 else None)
            skip = int(i == 3 and self.class_token is not None)
            x = to_map(tokens[:, skip:], size)
            maps.append(x)
        return maps, tokens[:, 0]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self._stages(images)[0]

    def pooled(self, images: Tensor) -> Tensor:
        """The class token after the final norm; without one, the mean over the last map."""
        maps, first = self._stages(images)
        return maps[-1].mean((2, 3)) if self.norm is None else self.norm(first)


def initialise_pvt(model: Pvt) -> None:
    """Initialise as the official code, using torch's global generator in the order of the modules.

    | parameter | values |
    | --- | --- |
    | linear weight, position table, class token | normal, std 0.02, truncated at +-2 |
    | linear bias | 0 |
    | layer norm | weight 1, bias 0 |
    | convolution | torch's default |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("pos_embed"):
            nn.init.trunc_normal_(parameter, std=0.02)
    if model.class_token is not None:
        nn.init.trunc_normal_(model.class_token, std=0.02)
