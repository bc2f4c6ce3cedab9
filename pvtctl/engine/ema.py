"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Ema:
    """Exponential moving average of a model's parameters; buffers are copied.

    After update t (counted from 0) with warm-up, the decay is `min(decay, (1 + t) / (10 + t))`, so that the random
    initialisation is forgotten within the first steps.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.99996, warmup: bool = True) -> None:
        self.module = copy.deepcopy(model).eval()
        self.module.requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0

    def decay_at(self, update: int) -> float:
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the weights of `model`."""
        weight = 1.0 - self.decay_at(self.updates)
        torch._foreach_lerp_(list(self.module.parameters()), [p.detach() for p in model.parameters()], weight)
        for own, new in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(new)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
