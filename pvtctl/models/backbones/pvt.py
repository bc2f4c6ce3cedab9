"""Pyramid Vision Transformers, versions 1 (arXiv 2102.12122) and 2 (arXiv 2106.13797): section 3 and Table 1 of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pvtctl.models.backbones.base import Backbone, check_images
from pvtctl.models.layers.attention import SpatialReductionAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock, drop_path_rates, initialise_linears, run_blocks
from pvtctl.models.layers.patches import PatchEmbed, Size, resize_position_table, to_map
from pvtctl.models.variants import Four, smallest_side, strides_of

NORM_EPS = 1e-6
"""Of the blocks and the norms after them; patch embeddings and spatial reductions use 1e-5."""


class PyramidStage(nn.Module):
    """Patch embedding and blocks of one stage."""

    checkpointing = False

    def __init__(self, patch_embed: PatchEmbed, blocks: list[TransformerBlock]) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)

    def run(self, tokens: Tensor, size: Size) -> Tensor:
        """The tokens (B, N, C) of a map of `size` after all blocks."""
        return run_blocks(self.blocks, tokens, size, checkpointing=self.checkpointing)


class PyramidTransformer(Backbone):
    """Base of PVT v1 and v2: four `stages`, made by `stage_of(stage, patch_embed, blocks)`.

    `linear_sra` gives all stages linear spatial reduction (B2-Li) and, as its code, a ReLU in the feed-forward part.
    """

    def __init__(
        self,
        stage_of: Callable[[int, PatchEmbed, list[TransformerBlock]], PyramidStage],
        *,
        embed_dims: Four,
        depths: Four,
        num_heads: Four,
        mlp_ratios: Four,
        sr_ratios: Four,
        patch_sizes: Four = (4, 2, 2, 2),
        linear_sra: bool = False,
        conv_ffn: bool = False,
        overlap: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(embed_dims)
        self.depths = depths
        self.feature_strides = strides_of(patch_sizes)
        self.min_side = smallest_side(patch_sizes, sr_ratios, linear_sra=linear_sra)
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
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
            patch_embed = PatchEmbed(embed_dims[i - 1] if i else 3, dim, patch_sizes[i], overlapping=overlap)
            self.stages.append(stage_of(i, patch_embed, blocks))

    @property
    def num_layers(self) -> int:
        return sum(self.depths) + 1

    def layer_of(self, name: str) -> int:
        """A stage's embedding and position table have the depth of its first block; in stage 1 they are layer 0."""
        part = name.split(".")
        if part[0] == "class_token":
            return sum(self.depths[:3]) + 1
        if part[0] == "norm":
            return sum(self.depths)
        stage = int(part[1])
        before = sum(self.depths[:stage])
        match part[2]:
            case "blocks":
                return before + int(part[3]) + 1
            case "norm":
                return before + self.depths[stage]
            case _:
                return 0 if stage == 0 else before + 1

    def set_activation_checkpointing(self, on: bool) -> None:
        for stage in self.stages:
            cast("PyramidStage", stage).checkpointing = on


class PvtStage(PyramidStage):
    """A stage with a position table `pos_embed` (1, N, dim) for `grid` (h, w).

    With `class_slot` its first row is the class token's, even if the model has none.
    """

    def __init__(
        self, patch_embed: PatchEmbed, blocks: list[TransformerBlock], dim: int, grid: Size, *, class_slot: bool
    ) -> None:
        super().__init__(patch_embed, blocks)
        self.grid = grid
        self.class_slot = class_slot
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + class_slot, dim))

    def forward(self, x: Tensor, class_token: Tensor | None = None) -> tuple[Tensor, Size]:
        """Map (B, C, H, W) -> tokens (B, N, dim), the class token first if given, and their (h, w)."""
        tokens, size = self.patch_embed(x)
        table = self.pos_embed[:, 1:] if self.class_slot else self.pos_embed
        tokens = tokens + resize_position_table(table, self.grid, size)
        if class_token is not None:
            first = (class_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
            tokens = torch.cat((first, tokens), dim=1)
        return self.run(tokens, size), size


class Pvt(PyramidTransformer):
    """PVT v1; `sizes` are those of `PyramidTransformer`.

    The class token exists in stage 4 only, and only with `class_token`; dense prediction uses neither it nor a norm on
    the maps. `image_size` (pixels, square) sizes the position tables; they are resized for other sizes.

    Initial values are those of the official code, from torch's global generator in the order of the modules: linear
    weights, position tables and the class token normal of std 0.02, truncated at +-2; convolutions torch's default.
    """

    def __init__(
        self,
        *,
        embed_dims: Four,
        patch_sizes: Four = (4, 2, 2, 2),
        class_token: bool = False,
        image_size: int = 224,
        **sizes: Any,
    ) -> None:
        sides = [image_size // stride for stride in strides_of(patch_sizes)]

        def stage_of(i: int, patch_embed: PatchEmbed, blocks: list[TransformerBlock]) -> PvtStage:
            return PvtStage(patch_embed, blocks, embed_dims[i], (sides[i], sides[i]), class_slot=i == 3)

        super().__init__(stage_of, embed_dims=embed_dims, patch_sizes=patch_sizes, **sizes)
        self.class_token = nn.Parameter(torch.zeros(1, 1, embed_dims[-1])) if class_token else None
        self.norm = nn.LayerNorm(embed_dims[-1], eps=NORM_EPS) if class_token else None
        initialise_linears(self)
        for name, parameter in self.named_parameters():
            if name.endswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)

    def _stages(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The four maps, and the class token (B, C) before the final norm (empty width without one)."""
        check_images(images, self.min_side)
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


class PvtV2Stage(PyramidStage):
    """A stage with a norm after its blocks."""

    def __init__(self, patch_embed: PatchEmbed, blocks: list[TransformerBlock], dim: int) -> None:
        super().__init__(patch_embed, blocks)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> map (B, dim, H/s, W/s)."""
        tokens, size = self.patch_embed(x)
        return to_map(self.norm(self.run(tokens, size)), size)


class PvtV2(PyramidTransformer):
    """PVT v2: no position tables, no class token; every map is normed, for classification and dense tasks alike.

    `sizes` are those of `PyramidTransformer`. Without `conv_ffn` the feed-forward part is v1's (Table 6 of the paper).

    Initial values are those of the official code, from torch's global generator in the order of the modules: linear
    weights normal of std 0.02, truncated at +-2; convolutions normal of std sqrt(2 / fan out), with fan out = kernel area
    x out channels / groups; biases 0.
    """

    def __init__(self, *, embed_dims: Four, conv_ffn: bool = True, overlap: bool = True, **sizes: Any) -> None:
        super().__init__(
            lambda i, patch_embed, blocks: PvtV2Stage(patch_embed, blocks, embed_dims[i]),
            embed_dims=embed_dims,
            conv_ffn=conv_ffn,
            overlap=overlap,
            **sizes,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.min_side)
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]
