"""The feed-forward part of a transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.layers.linear import Linear, linear, runs_in_one_pass
from pvtctl.layers.patches import Size, to_map, to_tokens

CHUNK_BYTES = 4 << 20
"""Hidden activations that stay in a CPU's cache between the two products of an MLP; measured, see `Mlp._in_chunks`."""


class Mlp(nn.Module):
    """Linear - GELU - linear; with `dwconv` a depthwise 3x3 convolution before the GELU (PVT v2 section 3.3).

    `relu` puts a ReLU before that convolution: the code of PVT v2's linear model has it, the paper does not say so.
    """

    def __init__(self, dim: int, hidden_dim: int, *, dwconv: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if dwconv else None
        self.relu = relu
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) -> (B, N, C); `size` (H, W) of the tokens is used by the convolution alone."""
        if self.dwconv is None:
            return self._in_chunks(tokens)
        x = self.fc1(tokens)
        if self.relu:
            x = F.relu(x)
        return self.fc2(F.gelu(to_tokens(self.dwconv(to_map(x, size)))))

    def _in_chunks(self, tokens: Tensor) -> Tensor:
        """The plain MLP, a few thousand tokens at a time where that is worth it: inference on a CPU.

        The hidden layer of PVT's first stage is 8 times as wide as its tokens: 51 MB at batch 8 and 224, 124 MB for an
        800x1216 image. In chunks it never leaves the cache, and never counts in the peak.
        """
        rows = tokens.flatten(0, -2)
        chunk = max(CHUNK_BYTES // (self.fc1.out_features * 4), 1)
        if not runs_in_one_pass(tokens) or len(rows) < 2 * chunk:
            return self.fc2(linear(tokens, self.fc1.weight, self.fc1.bias, gelu=True))
        out = torch.empty_like(rows)
        for start in range(0, len(rows), chunk):
            hidden = linear(rows[start : start + chunk], self.fc1.weight, self.fc1.bias, gelu=True)
            out[start : start + chunk] = self.fc2(hidden)
        return out.view_as(tokens)
