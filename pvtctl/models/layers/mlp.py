"""The feed-forward part of a transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.layers.linear import apply_linear, is_plain, runs_in_one_pass
from pvtctl.models.layers.patches import Size, to_map, to_tokens

CHUNK_BYTES = 4 << 20
"""Hidden activations that stay in a CPU's cache between the two products of an MLP; measured, see `Mlp._in_chunks`."""


class Mlp(nn.Module):
    """Linear - GELU - linear; with `dwconv` a depthwise 3x3 convolution before the GELU (PVT v2 section 3.3).

    `relu` puts a ReLU before that convolution: the code of PVT v2's linear model has it, the paper does not say so.
    """

    def __init__(self, dim: int, hidden_dim: int, *, dwconv: bool = False, relu: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim) if dwconv else None
        self.relu = relu
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """(B, N, C) -> (B, N, C); `size` (H, W) of the tokens is used by the convolution alone."""
        if self.dwconv is None:
            return self._in_chunks(tokens)
        x = apply_linear(self.fc1, tokens)
        if self.relu:
            x = F.relu(x)
        return apply_linear(self.fc2, F.gelu(to_tokens(self.dwconv(to_map(x, size)))))

    def _in_chunks(self, tokens: Tensor) -> Tensor:
        """The plain MLP, a few thousand tokens at a time where that is worth it: inference on a CPU.

        The hidden layer of PVT's first stage is 8 times as wide as its tokens: 51 MB at batch 8 and 224, 124 MB for an
        800x1216 image. In chunks it never leaves the cache, and never counts in the peak.
        """
        if not self._may_chunk(tokens):
            return apply_linear(self.fc2, apply_linear(self.fc1, tokens, gelu=True))
        rows = tokens.flatten(0, -2)
        out = torch.empty_like(rows)
        chunk = self._chunk_rows()
        for start in range(0, len(rows), chunk):
            hidden = apply_linear(self.fc1, rows[start : start + chunk], gelu=True)
            out[start : start + chunk] = apply_linear(self.fc2, hidden)
        return out.view_as(tokens)

    def _chunk_rows(self) -> int:
        return max(CHUNK_BYTES // (self.fc1.out_features * 4), 1)

    def _may_chunk(self, tokens: Tensor) -> bool:
        """Layers that are more than a linear may look at all tokens, or count their calls."""
        plain = is_plain(self.fc1, nn.Linear) and is_plain(self.fc2, nn.Linear)
        if not plain or not runs_in_one_pass(tokens, self.fc1.weight, self.fc2.weight):
            return False
        return tokens.numel() // self.fc1.in_features >= 2 * self._chunk_rows()
