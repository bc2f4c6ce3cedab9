"""Pyramid Vision Transformer, version 2 (arXiv 2106.13797, section 3 and Table 1)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pvtctl.models.backbones.base import PyramidStage, PyramidTransformer, check_images
from pvtctl.models.layers.attention import SpatialReductionAttention
from pvtctl.models.layers.block import TransformerBlock, run_blocks
from pvtctl.models.layers.drop_path import drop_path_rates
from pvtctl.models.layers.mlp import Mlp
from pvtctl.models.layers.patches import PatchEmbed, to_map
from pvtctl.models.variants import Four

NORM_EPS = 1e-6
"""Of the blocks and the stage norms; patch embeddings and spatial reductions use 1e-5."""


class PvtV2Stage(PyramidStage):
    """Overlapping patch embedding, blocks, norm."""

    def __init__(self, patch_embed: PatchEmbed, blocks: list[TransformerBlock], dim: int) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> map (B, dim, H/s, W/s)."""
        tokens, size = self.patch_embed(x)
        tokens = run_blocks(self.blocks, tokens, size, checkpointing=self.checkpointing)
        return to_map(self.norm(tokens), size)


class PvtV2(PyramidTransformer):
    """PVT v2: no position tables, no class token; every map is normed, for classification and dense tasks alike.

    `linear_sra` gives all stages linear spatial reduction (B2-Li) and, as its code, a ReLU in the feed-forward part.
    Without `conv_ffn` the feed-forward part is v1's (Table 6 of the paper).
    """

    def __init__(
        self,
        *,
        embed_dims: Four,
        depths: Four,
        num_heads: Four,
        mlp_ratios: Four,
        sr_ratios: Four,
        linear_sra: bool = False,
        conv_ffn: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(embed_dims)
        self.depths = depths
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, dim in enumerate(embed_dims):
            blocks = [
                TransformerBlock(
                    dim,
                    SpatialReductionAttention(dim, num_heads[i], sr_ratios[i], linear=linear_sra),
                    Mlp(dim, dim * mlp_ratios[i], dwconv=conv_ffn, relu=linear_sra),
                    drop_path=next(rates),
                    norm_eps=NORM_EPS,
                )
                for _ in range(depths[i])
            ]
            patch_embed = PatchEmbed(embed_dims[i - 1] if i else 3, dim, 2 if i else 4, overlapping=True)
            stages.append(PvtV2Stage(patch_embed, blocks, dim))
        self.stages = nn.ModuleList(stages)
        initialise_pvt_v2(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images)
        maps: list[Tensor] = []
        x = images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def initialise_pvt_v2(model: nn.Module) -> None:
    """Initialise as the official code, using torch's global generator in the order of the modules.

    | parameter | values |
    | --- | --- |
    | linear weight | normal, std 0.02, truncated at +-2 |
    | convolution weight | normal, std sqrt(2 / fan out), fan out = kernel area x out channels / groups |
    | linear and convolution bias | 0 |
    | layer norm | weight 1, bias 0 |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
