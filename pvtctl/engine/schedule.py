"""Learning rate schedules as pure functions of the optimiser step, without state to save."""

from __future__ import annotations

import math
from typing import assert_never

from pvtctl.recipe.schema import ScheduleSettings


class Schedule:
    """Learning rate of the main parameter group over `epochs` epochs of `steps_per_epoch` optimiser steps.

    All schedules start with a linear warm-up, stepped every iteration; `cosine` and `poly` then decay from `lr` to
    `min_lr` over the rest. `step` multiplies by `gamma` after each of `steps` (epochs of the run, warm-up included).
    `official_lagging` reproduces the papers' code: see `at`.

    A warm-up longer than half the run is cut to half of it, so that short trial runs do train.
    """

    def __init__(self, curve: ScheduleSettings, *, lr: float, epochs: float, steps_per_epoch: int) -> None:
        self.curve, self.lr, self.epochs, self.steps_per_epoch = curve, lr, epochs, steps_per_epoch
        steps = curve.warmup_steps
        self.warmup_epochs = min(curve.warmup_epochs if steps is None else steps / steps_per_epoch, epochs / 2)
        self.min_lr, self.warmup_lr = min(curve.min_lr, lr), min(curve.warmup_lr, lr)

    def at(self, step: int) -> float:
        """The learning rate of step number `step`, counted from 0."""
        if self.curve.name == "official_lagging":
            # The official code sets the rate after each epoch from that epoch's index, so that epochs 0 and 1 both
            # run at the warm-up's start and the whole curve lags by one epoch.
            return self._at_epoch(max(step // self.steps_per_epoch - 1, 0))
        return self._at_epoch(step / self.steps_per_epoch)

    def _at_epoch(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * epoch / self.warmup_epochs
        span = max(self.epochs - self.warmup_epochs, 1e-12)
        progress = min((epoch - self.warmup_epochs) / span, 1.0)
        match self.curve.name:
            case "cosine":
                return self._cosine(progress)
            case "official_lagging":
                # There the cosine counts from epoch 0: the warm-up only replaces its beginning.
                return self._cosine(min(epoch / self.epochs, 1.0))
            case "poly":
                return self.min_lr + (self.lr - self.min_lr) * (1.0 - progress) ** self.curve.power
            case "step":
                return self.lr * self.curve.gamma ** sum(epoch >= at for at in self.curve.steps)
            case "constant":
                return self.lr
            case _:
                assert_never(self.curve.name)

    def _cosine(self, progress: float) -> float:
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * progress))
