"""Multi-head attention, with and without spatial reduction of keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.layers.patches import Size, to_map, to_tokens, use_channels_last

Span = tuple[int, int]

POOLED_SIDE = 7
"""Side of the pooled keys and values of linear spatial reduction (PVT v2 section 3.2)."""


class DotProductAttention(nn.Module):
    """Base of all attention layers: softmax of scaled dot products of queries and keys, applied to the values."""

    num_heads: int
    proj: nn.Linear

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d)) v for q (B, heads, N, d), k and v (B, heads, M, d); returns tokens (B, N, heads*d)."""
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class MultiHeadAttention(DotProductAttention):
    """Shared by the attention layers below: queries, keys and values from tokens, and the output projection."""

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """From tokens (B, N, C) of a map of `size`: q (B, heads, N, d), k and v (B, heads, M, d)."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) of a map of `size` (H, W) -> (B, N, C)."""
        return self.proj(self.attend(*self.queries_keys_values(tokens, size)))

    def weights(self, tokens: Tensor, size: Size, queries: Tensor | None = None) -> Tensor:
        """The attention weights of `forward`, for pictures: (B, heads, N, M), rows that sum to 1; with `queries` (Q indices)
        only those, (B, heads, Q, M).
        """
        q, k, _ = self.queries_keys_values(tokens, size)
        if queries is not None:
            q = q[:, :, queries]
        return (q @ (k * q.shape[-1] ** -0.5).transpose(-2, -1)).softmax(dim=-1)

    def key_spans(self, size: Size) -> tuple[list[Span], list[Span]]:
        """Rows and columns (start, stop) of a map of `size` that each row and column of the keys' grid covers; keys are in
        row-major order.
        """
        rows, columns = ([(at, at + 1) for at in range(side)] for side in size)
        return rows, columns


class SpatialReductionAttention(MultiHeadAttention):
    """Attention whose keys and values come from a smaller map (PVT v1 section 3.3; linear: PVT v2 section 3.2).

    `sr_ratio` R > 1: an RxR convolution of stride R and a LayerNorm (eps 1e-5) reduce the map. `linear`: average pooling
    to 7x7, 1x1 convolution, LayerNorm, GELU, for any R. The paper's formula reduces K and V separately and without biases;
    the code, followed here, reduces once, and all projections have biases.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, *, linear: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = linear
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        kernel = 1 if linear else sr_ratio
        self.reduces = linear or sr_ratio > 1
        if self.reduces:
            self.sr = use_channels_last(nn.Conv2d(dim, dim, kernel, stride=kernel))
            self.norm = nn.LayerNorm(dim, eps=1e-5)

    def reduced(self, tokens: Tensor, size: Size) -> Tensor:
        """The tokens (B, M, C) from which keys and values are computed."""
        if not self.reduces:
            return tokens
        x = to_map(tokens, size)
        if self.linear:
            return F.gelu(self.norm(to_tokens(self.sr(F.adaptive_avg_pool2d(x, POOLED_SIDE)))))
        return self.norm(to_tokens(self.sr(x)))

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        q = torch.unflatten(self.q(tokens), -1, (self.num_heads, -1)).transpose(1, 2)
        kv = torch.unflatten(self.kv(self.reduced(tokens, size)), -1, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def key_spans(self, size: Size) -> tuple[list[Span], list[Span]]:
        if not self.reduces:
            return super().key_spans(size)
        if self.linear:  # adaptive pooling: cells of nearly equal size, which may overlap by one
            rows, columns = (
                [(at * side // POOLED_SIDE, -(-(at + 1) * side // POOLED_SIDE)) for at in range(POOLED_SIDE)]
                for side in size
            )
            return rows, columns
        ratio = self.sr.kernel_size[0]
        rows, columns = ([(at * ratio, (at + 1) * ratio) for at in range(side // ratio)] for side in size)
        return rows, columns


class SelfAttention(MultiHeadAttention):
    """Attention over all tokens with one joint projection, as in ViT."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """As in the base class; `size` is not used."""
        qkv = torch.unflatten(self.qkv(tokens), -1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v
