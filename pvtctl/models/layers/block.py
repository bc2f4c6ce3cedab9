"""The pre-norm transformer block of all backbones here, with its MLP and stochastic depth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pvtctl.models.layers.patches import Size, to_map, to_tokens


class DropPath(nn.Module):
    """In training, zeroes a sample's residual branch with probability `rate`, and scales the others to keep the mean.

    Stochastic depth (Huang et al. 2016), per sample, as DeiT and PVT use it.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep if keep > 0 else mask)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Linear from 0 at the first block to `rate` at the last, over all blocks of a model."""
    return [rate * block / max(depth - 1, 1) for block in range(depth)]


class Mlp(nn.Module):
    """Linear - GELU - linear; with `dwconv` a depthwise 3x3 convolution before the GELU (PVT v2 section 3.3).

    `relu` adds a ReLU before that convolution: as the code of PVT v2's linear model, not mentioned in the paper.
    """

    def __init__(self, dim: int, hidden_dim: int, *, dwconv: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if dwconv else None
        self.relu = relu
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) -> (B, N, C); `size` (H, W) of the tokens is used by the convolution only."""
        x = self.fc1(tokens)
        if self.dwconv is not None:
            x = F.relu(x) if self.relu else x
            x = to_tokens(self.dwconv(to_map(x, size)))
        return self.fc2(F.gelu(x))


class TransformerBlock(nn.Module):
    """tokens + attn(norm(tokens)), then + mlp(norm(tokens)); drop path on both branches."""

    def __init__(
        self, dim: int, attn: nn.Module, mlp: nn.Module, *, drop_path: float = 0.0, norm_eps: float = 1e-5
    ) -> None:
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


def initialise_linears(model: nn.Module) -> None:
    """Linear weights: normal, std 0.02, truncated at +-2, in the order of the modules; biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
