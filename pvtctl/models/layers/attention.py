"""Multi-head attention, with and without spatial reduction of keys and values."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.layers.linear import apply_linear
from pvtctl.models.layers.patches import Size, channels_last_conv, conv_by_linear, is_exporting, to_map

Span = tuple[int, int]

POOLED_SIDE = 7
"""Side of the pooled keys and values of linear spatial reduction (PVT v2 section 3.2)."""

PLAIN_MAX_KEYS, PLAIN_MIN_QUERIES = 64, 512
"""float32: plain attention is taken on a CPU in training up to that many keys and from that many queries on."""

PLAIN_MAX_PAIRS = 1 << 22
"""bf16 and fp16: plain attention is taken on a CPU up to that many query-key pairs; beyond, memory decides."""


def choose_attention(
    num_queries: int, num_keys: int, *, dtype: torch.dtype, device_type: str, needs_grad: bool
) -> Literal["fused", "plain"]:
    """Which attention kernel is faster: `fused` (torch's SDPA) or `plain` (matmul, softmax, matmul).

    The fused kernel saves the (N, M) matrix, which counts at detection sizes and on every GPU. On a CPU in float32 its
    backward loses only where keys are few and queries many, as in the first stages of a PVT at 224. In bf16 it does not
    use the processor's bf16 products as plain matmuls do, and loses everywhere. Measured (one Zen 4 core, torch 2.15,
    batch 8, forward and backward, ms fused / plain):

    | queries x keys, heads | float32 | bf16 |
    | --- | --- | --- |
    | 3136x49, 1 | 19.3 / 18.7 | 22.7 / 11.1 |
    | 196x49, 5 | 7.5 / 7.3 | 15.2 / 3.9 |
    | 50x50, 8 | 4.1 / 4.2 | 10.1 / 2.3 |
    | 197x197, 6 (a DeiT) | 26.7 / 29.8 | 34.3 / 13.1 |
    """
    if device_type != "cpu" or is_exporting():  # an exported graph runs at other sizes and elsewhere
        return "fused"
    if dtype in (torch.bfloat16, torch.float16):
        return "plain" if num_queries * num_keys <= PLAIN_MAX_PAIRS else "fused"
    few_keys = needs_grad and num_keys <= PLAIN_MAX_KEYS and num_queries >= PLAIN_MIN_QUERIES
    return "plain" if few_keys else "fused"


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q (B, heads, N, d), k and v (B, heads, M, d); returns tokens (B, N, heads*d)."""
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    device_type = q.device.type
    match choose_attention(q.shape[2], k.shape[2], dtype=q.dtype, device_type=device_type, needs_grad=needs_grad):
        case "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        case "plain":
            scores = q @ (k * q.shape[-1] ** -0.5).transpose(-2, -1)
            out = scores.softmax(dim=-1) @ v
    return out.transpose(1, 2).flatten(2)


class MultiHeadAttention(nn.Module):
    """What both kinds below share: queries, keys and values from tokens, and what is done with them."""

    num_heads: int
    proj: nn.Linear

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Of tokens (B, N, C) of a map of `size`: q (B, heads, N, d), k and v (B, heads, M, d)."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) of a map of `size` (H, W) -> (B, N, C)."""
        return apply_linear(self.proj, attention(*self.queries_keys_values(tokens, size)))

    def weights(self, tokens: Tensor, size: Size, queries: Tensor | None = None) -> Tensor:
        """What `forward` weighs the values with, for pictures: (B, heads, N, M), rows that sum to 1; of the tokens
        `queries` (Q indices) alone, (B, heads, Q, M)."""
        q, k, _ = self.queries_keys_values(tokens, size)
        if queries is not None:
            q = q[:, :, queries]
        return (q @ (k * q.shape[-1] ** -0.5).transpose(-2, -1)).softmax(dim=-1)

    def key_spans(self, size: Size) -> tuple[list[Span], list[Span]]:
        """Rows and columns of the keys' grid, row by row as the keys lie: which rows and columns (start, stop) of a map of
        `size` each is made of."""
        rows, columns = ([(at, at + 1) for at in range(side)] for side in size)
        return rows, columns


class SpatialReductionAttention(MultiHeadAttention):
    """Attention whose keys and values come from a smaller map (PVT v1 section 3.3; linear: PVT v2 section 3.2).

    `sr_ratio` R > 1: an RxR convolution of stride R and a LayerNorm (eps 1e-5) shrink the map. `linear`: average pooling
    to 7x7, 1x1 convolution, LayerNorm, GELU, whatever R is. The paper's formula reduces K and V apart and without biases;
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
            self.sr = channels_last_conv(nn.Conv2d(dim, dim, kernel, stride=kernel))
            self.norm = nn.LayerNorm(dim, eps=1e-5)

    def reduced(self, tokens: Tensor, size: Size) -> Tensor:
        """The tokens (B, M, C) that keys and values are made of."""
        if not self.reduces:
            return tokens
        x = to_map(tokens, size)
        if self.linear:
            return F.gelu(self.norm(conv_by_linear(F.adaptive_avg_pool2d(x, POOLED_SIDE), self.sr)[0]))
        return self.norm(conv_by_linear(x, self.sr)[0])

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        q = torch.unflatten(apply_linear(self.q, tokens), -1, (self.num_heads, -1)).transpose(1, 2)
        kv = torch.unflatten(apply_linear(self.kv, self.reduced(tokens, size)), -1, (2, self.num_heads, -1))
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
    """Attention over all tokens with one joint projection, as ViT has it."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def queries_keys_values(self, tokens: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """The map's `size` does not matter here."""
        qkv = torch.unflatten(apply_linear(self.qkv, tokens), -1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v
