"""Stochastic depth (Huang et al. 2016), per sample, as DeiT and PVT use it."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zeroes a sample's residual branch with probability `rate`, and scales the others to keep the mean."""

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
