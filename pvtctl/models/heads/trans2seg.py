"""Trans2Seg: a transformer over the backbone's last map, whose learned class prototypes attend to the map.

Xie et al. 2021 (arXiv 2101.08461), as used on PVT v1's pyramid (Table 7). Sizes and details not in the paper are those
of the original code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.heads.base import DenseHead
from pvtctl.models.layers.attention import DotProductAttention, SelfAttention
from pvtctl.models.layers.block import Mlp, TransformerBlock, initialise_linears, run_blocks
from pvtctl.models.layers.patches import Size, is_grid, to_map, to_tokens

SIZES = {128: (2, 32), 256: (3, 64), 768: (4, 128)}
"""embed_dim of the three published configurations -> ratio of their MLPs, width of their class maps."""
CLASSES_AT_ONCE = 16
"""Classes whose maps are computed together in inference: 150 at once take gigabytes at 512 pixels."""


class Trans2Seg(DenseHead):
    """The backbone's first and last map -> logits (B, K, h, w) of the first map's size.

    The encoder processes the last map's cells. In the decoder K learned prototypes attend to them; the attention scores,
    one map per class and head, are concatenated with the encoder's features and pass three separable convolutions, which
    process one class at a time and add the first map's detail.

    Equal to the original code with its weights, including its peculiarities: a residual of the decoder adds a tensor to
    itself (so the layer's input is lost and the rest doubled), queries are split into heads without a transpose, and the
    scores are taken before the softmax. Two generalisations, as the original supports only 12 classes and 1024 cells:

    * Classes: there are as many prototypes as classes; nothing else depends on K.
    * Cells: `grid` is the side of the square of cells of the position table and of the MLP over a class's scores (its
      linear layers take one number per cell). Other maps' scores are resized to that grid for norm and MLP, and back;
      positions are resized to the map, by height and width. At grid x grid nothing is resized.
    * Unused computations of the original are left out: that MLP in all layers but the last, and the last layer's other
      results. No gradient would ever reach it; `docs/cost.md` has its cost.

    `dropout` applies to the encoder's input tokens; the original has none. Linear layers, tokens and tables start, as in
    the original, normal of std 0.02, truncated at +-2. Raises UsageError for a rate out of range and
    an `embed_dim` that `num_heads` does not divide.
    """

    align_corners = True

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        dropout: float = 0.0,
        embed_dim: int = 256,
        depth: int = 4,
        num_heads: int = 8,
        grid: int = 32,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UsageError(
                f"trans2seg's embed_dim {embed_dim} is not divisible by its {num_heads} heads",
                "the paper has 256 and 8",
            )
        if not 0 <= dropout < 1:
            raise UsageError(f"a dropout of {dropout:g} is out of range", "use 0 <= dropout < 1; the original has 0")
        mlp_ratio, width = SIZES.get(embed_dim, SIZES[256])
        hidden = embed_dim * mlp_ratio
        self.num_classes = num_classes
        self.grid = grid
        self.embed = nn.Linear(channels[-1], embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, embed_dim))
        self.cls_embed = nn.Parameter(torch.zeros(1, num_classes, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(
            TransformerBlock(embed_dim, SelfAttention(embed_dim, num_heads, qkv_bias=False), Mlp(embed_dim, hidden))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.decoder = nn.ModuleList(PrototypeLayer(embed_dim, num_heads, hidden) for _ in range(depth - 1))
        self.answers = Answers(embed_dim, num_heads, grid)
        conv = nn.Conv2d(channels[0], width, 1, bias=False)
        self.conv_c1 = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(width), relu=nn.ReLU(inplace=True)))
        self.lay1 = SeparableConv(embed_dim + num_heads, width)
        self.lay2 = SeparableConv(width, width)
        self.lay3 = SeparableConv(width, width)
        self.pred = nn.Conv2d(width, 1, 1)
        for table in (self.cls_token, self.pos_embed, self.cls_embed):
            nn.init.trunc_normal_(table, std=0.02)
        initialise_linears(self)

    def forward(self, features: Sequence[Tensor], auxiliary: bool = False) -> tuple[Tensor, Sequence[Tensor]]:
        """The backbone's maps, of which the first and the last are used -> (logits, no auxiliary maps)."""
        first, last = features[0], features[-1]
        size = (last.shape[2], last.shape[3])
        tokens = self.encoded(last, size)
        queries, cells = self.cls_embed.expand(tokens.shape[0], -1, -1), tokens
        for layer in self.decoder:
            queries, cells = layer(queries, cells)
            queries = queries + self.cls_embed
        answers = self.answers(queries, cells, size)
        shared, detail = to_map(tokens.contiguous(), size), self.conv_c1(first)
        step = self.num_classes if torch.is_grad_enabled() else CLASSES_AT_ONCE
        if self.lay1.bn_depth.training:  # batch norms need all classes together
            step = self.num_classes
        return torch.cat([self.class_maps(shared, part, detail) for part in answers.split(step, 1)], 1), ()

    def encoded(self, last: Tensor, size: Size) -> Tensor:
        """The last map (B, C, h, w) -> normed tokens (B, N, embed_dim) of its cells, without the class token."""
        tokens = self.embed(to_tokens(last))
        grid = (self.grid, self.grid)
        positions = self.pos_embed[:, 1:]
        if not is_grid(size, grid):
            table = F.interpolate(to_map(positions.contiguous(), grid), size, mode="bilinear", align_corners=True)
            positions = to_tokens(table)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        tokens = self.dropout(torch.cat((token, tokens + positions), 1))
        tokens = run_blocks(self.encoder, tokens, size, checkpointing=False)
        return self.norm(tokens)[:, 1:]

    def class_maps(self, shared: Tensor, answers: Tensor, detail: Tensor) -> Tensor:
        """shared (B, C, h, w), scores of k classes (B, k, heads, h, w) and detail (B, width, H, W) -> (B, k, H, W)."""
        number = answers.shape[1]
        x = torch.cat((shared.unsqueeze(1).expand(-1, number, -1, -1, -1), answers), 2).flatten(0, 1)
        x = self.lay2(self.lay1(x))
        x = F.interpolate(x, detail.shape[2:], mode="bilinear", align_corners=True)
        x = (torch.unflatten(x, 0, (-1, number)) + detail.unsqueeze(1)).flatten(0, 1)
        return self.pred(self.lay3(x)).view(-1, number, *detail.shape[2:])


class PrototypeAttention(DotProductAttention):
    """Class prototypes attend to cells; queries are split into heads, and merged again, without a transpose."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fc_q = nn.Linear(dim, dim, bias=False)
        self.fc_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, cells: Tensor) -> Tensor:
        """Queries (B, K, C), cells (B, N, C) -> (B, K, C)."""
        kv = torch.unflatten(self.fc_kv(cells), -1, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        out = self.attend(prototype_heads(self.fc_q(queries), self.num_heads), k, v)  # B K heads*d
        out = torch.unflatten(out, -1, (self.num_heads, -1)).transpose(1, 2)
        return self.proj(out.reshape(queries.shape))


def prototype_heads(queries: Tensor, num_heads: int) -> Tensor:
    """(B, K, C) -> (B, heads, K, C/heads) in memory order, without the usual transpose, as in the original."""
    return queries.reshape(queries.shape[0], num_heads, queries.shape[1], -1)


class PrototypeLayer(nn.Module):
    """Prototypes attend to the cells; both then pass their own MLP, doubled first."""

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm1_clsembed = nn.LayerNorm(dim)
        self.attn = PrototypeAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.norm3 = nn.LayerNorm(dim)
        self.mlp2 = Mlp(dim, hidden)

    def forward(self, queries: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, C) and (B, N, C) -> the same shapes."""
        queries = 2 * self.attn(self.norm1_clsembed(queries), self.norm1(cells))
        cells = 2 * cells
        one = (1, 1)  # without convolutions the MLPs do not use the map's size
        return queries + self.mlp(self.norm2(queries), one), cells + self.mlp2(self.norm3(cells), one)


class Answers(nn.Module):
    """The used part of the last decoder layer: the attention score of each cell for each prototype."""

    def __init__(self, dim: int, num_heads: int, grid: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid = grid
        self.norm1 = nn.LayerNorm(dim)
        self.norm1_clsembed = nn.LayerNorm(dim)
        self.fc_q = nn.Linear(dim, dim, bias=False)
        self.fc_k = nn.Linear(dim, dim, bias=False)
        self.norm4 = nn.LayerNorm(grid**2)
        self.mlp3 = Mlp(grid**2, 3 * grid**2)

    def forward(self, queries: Tensor, cells: Tensor, size: Size) -> Tensor:
        """Queries (B, K, C), cells (B, h*w, C) of a map of `size` (h, w) -> (B, K, heads, h, w)."""
        q = prototype_heads(self.fc_q(self.norm1_clsembed(queries)), self.num_heads)
        k = torch.unflatten(self.fc_k(self.norm1(cells)), -1, (self.num_heads, -1)).transpose(1, 2)
        scale = q.shape[-1] ** -0.5
        answers = 2 * scale * (q @ k.transpose(-2, -1)).transpose(1, 2)  # B K heads N
        grid = (self.grid, self.grid)
        changes = answers if is_grid(size, grid) else self._resized(answers, size, grid)
        changes = self.mlp3(self.norm4(changes), grid)
        if not is_grid(size, grid):
            changes = self._resized(changes, grid, size)
        return torch.unflatten(answers + changes, -1, size)

    def _resized(self, maps: Tensor, size: Size, wanted: Size) -> Tensor:
        """(B, K, heads, h*w) -> (B, K, heads, H*W)."""
        out = F.interpolate(torch.unflatten(maps, -1, size).flatten(0, 1), wanted, mode="bilinear", align_corners=True)
        return out.flatten(2).view(*maps.shape[:3], -1)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel, then a 1x1 one, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.bn_depth = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn_point = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn_depth(self.depthwise(x)))
        return self.relu(self.bn_point(self.pointwise(x)))
