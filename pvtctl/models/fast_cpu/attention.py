"""Attention."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.conditions import is_exporting
from pvtctl.models.heads.trans2seg import PrototypeAttention
from pvtctl.models.layers.attention import DotProductAttention, SelfAttention, SpatialReductionAttention

PLAIN_MAX_KEYS = 64
"""float32: plain attention is used in CPU training up to that many keys, for enough queries."""

PLAIN_MAX_PAIRS = 1 << 22
"""bf16 and fp16: plain attention is used on a CPU up to that many query-key pairs; beyond, memory decides."""

LEAST_QUERIES = 512
"""In a part of `query_parts`."""


def choose_attention(
    num_queries: int, num_keys: int, *, dtype: torch.dtype, device_type: str, needs_grad: bool
) -> Literal["fused", "plain"]:
    """Choose the faster attention kernel: `fused` (torch's SDPA) or `plain` (matmul, softmax, matmul).

    The fused kernel avoids the (N, M) matrix, which matters at detection sizes and on every GPU. On a CPU in float32 its
    backward can be slower where keys are few and queries many, as in the first stages of a PVT at 224; in bf16 it does not
    use the processor's bf16 products as plain matmuls do. Where that is so is measured (`Choices`).
    """
    choices = active()
    if device_type != "cpu" or is_exporting():  # an exported graph runs at other sizes and elsewhere
        return "fused"
    if dtype in (torch.bfloat16, torch.float16):
        return "plain" if choices.plain_bf16 and num_queries * num_keys <= PLAIN_MAX_PAIRS else "fused"
    few_keys = needs_grad and num_keys <= PLAIN_MAX_KEYS
    return "plain" if few_keys and choices.plain_from and num_queries >= choices.plain_from else "fused"


def query_parts(batch: int, heads: int, queries: int, keys: int) -> int:
    """Into how many parts of images the queries are split, so that the backward pass of SDPA keeps all threads busy.

    It gives each thread whole heads of images: PVT's first stage has one. A part has a copy of the keys and values; all
    copies together have no more rows than the queries.
    """
    threads = torch.get_num_threads()

    def busy(parts: int) -> float:
        heads_each = -(-batch * heads * parts // threads)
        return batch * heads * parts / (heads_each * threads)

    most = min(2 * threads, queries // LEAST_QUERIES, queries // keys)
    return max((parts for parts in range(1, most + 1) if queries % parts == 0), key=busy, default=1)


class _ChosenAttention(DotProductAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        device_type = q.device.type
        match choose_attention(q.shape[2], k.shape[2], dtype=q.dtype, device_type=device_type, needs_grad=needs_grad):
            case "fused" if needs_grad and device_type == "cpu" and active().split_queries:
                batch, heads, queries, width = q.shape
                parts = query_parts(batch, heads, queries, k.shape[2])
                if parts == 1:
                    return super().attend(q, k, v)
                q = q.transpose(1, 2).reshape(batch * parts, queries // parts, heads, width).transpose(1, 2)
                k, v = (each.repeat_interleave(parts, 0) for each in (k, v))
                return super().attend(q, k, v).reshape(batch, queries, -1)
            case "fused":
                return super().attend(q, k, v)
            case "plain":
                scores = q @ (k * q.shape[-1] ** -0.5).transpose(-2, -1)
                return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


class FastSelfAttention(_ChosenAttention, SelfAttention):
    """SelfAttention with the kernel of `choose_attention`."""


class FastSpatialReductionAttention(_ChosenAttention, SpatialReductionAttention):
    """SpatialReductionAttention with the kernel of `choose_attention`."""


class FastPrototypeAttention(_ChosenAttention, PrototypeAttention):
    """PrototypeAttention with the kernel of `choose_attention`."""
