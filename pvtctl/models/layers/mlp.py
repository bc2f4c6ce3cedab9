"""The feed-forward part of a transformer block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.layers.patches import Size, to_map, to_tokens


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
