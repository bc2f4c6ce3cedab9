"""The pre-norm transformer block of all backbones here."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtctl.models.layers.drop_path import DropPath
from pvtctl.models.layers.patches import Size


class TransformerBlock(nn.Module):
    """tokens + attn(norm(tokens)), then + mlp(norm(tokens)); drop path on both branches."""

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, *, drop_path: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) of a map of `size` (H, W) -> (B, N, C)."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens), size))


def run_block(block: nn.Module, tokens: Tensor, size: Size, *, checkpointing: bool) -> Tensor:
    """`block(tokens, size)`; with `checkpointing` its activations are recomputed in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, tokens, size, use_reentrant=False)
    return block(tokens, size)


def run_blocks(blocks: Iterable[nn.Module], tokens: Tensor, size: Size, *, checkpointing: bool) -> Tensor:
    """All of `blocks`, one after the other; see `run_block`."""
    for block in blocks:
        tokens = run_block(block, tokens, size, checkpointing=checkpointing)
    return tokens
