"""Learning rate schedules as pure functions of the optimiser step, without state to save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

ScheduleName = Literal["cosine", "poly", "step", "constant", "official_lagging"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of the main parameter group at an optimiser step (counted from 0)."""

    name: ScheduleName
    lr: float
    epochs: float
    steps_per_epoch: int
    min_lr: float = 1e-5
    warmup_epochs: float = 5.0
    warmup_lr: float = 1e-6
    power: float = 0.9
    steps: tuple[float, ...] = ()
    gamma: float = 0.1

    def at(self, step: int) -> float:
        """The learning rate of step number `step`."""
        if self.name == "official_lagging":
            # The official code sets the rate after each epoch from that epoch's index, so that epochs 0 and 1 both
            # run at the warm-up's start and the whole curve lags by one epoch.
            return self._at_epoch(max(step // self.steps_per_epoch - 1, 0))
        return self._at_epoch(step / self.steps_per_epoch)

    def _at_epoch(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.lr - self.warmup_lr) * epoch / self.warmup_epochs
        span = max(self.epochs - self.warmup_epochs, 1e-12)
        progress = min((epoch - self.warmup_epochs) / span, 1.0)
        match self.name:
            case "cosine":
                return self._cosine(progress)
            case "official_lagging":
                # There the cosine counts from epoch 0: the warm-up only replaces its beginning.
                return self._cosine(min(epoch / self.epochs, 1.0))
            case "poly":
                return self.min_lr + (self.lr - self.min_lr) * (1.0 - progress) ** self.power
            case "step":
                return self.lr * self.gamma ** sum(epoch >= at for at in self.steps)
            case "constant":
                return self.lr
            case _:
                assert_never(self.name)

    def _cosine(self, progress: float) -> float:
        return self.min_lr + 0.5 * (self.lr - self.min_lr) * (1.0 + math.cos(math.pi * progress))


def build_schedule(
    *,
    name: ScheduleName = "cosine",
    lr: float,
    epochs: float,
    steps_per_epoch: int,
    min_lr: float = 1e-5,
    warmup_epochs: float = 5.0,
    warmup_lr: float = 1e-6,
    power: float = 0.9,
    steps: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_steps: int | None = None,
) -> Schedule:
    """A schedule over `epochs` epochs of `steps_per_epoch` optimiser steps.

    All start with a linear warm-up from `warmup_lr` over `warmup_epochs`, or over `warmup_steps` optimiser steps if
    given (0 disables either), stepped every iteration; `cosine` and `poly` then decay from `lr` to `min_lr` over the
    rest. `step` multiplies by `gamma` after each of `steps` (epochs of the run, warm-up included). `official_lagging`
    reproduces the papers' code: see `Schedule.at`.

    A warm-up longer than half the run is cut to half of it, so that short trial runs do train.
    """
    if warmup_steps is not None:
        warmup_epochs = warmup_steps / steps_per_epoch
    warmup_epochs = min(warmup_epochs, epochs / 2)
    return Schedule(
        name=name,
        lr=lr,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        min_lr=min(min_lr, lr),
        warmup_epochs=warmup_epochs,
        warmup_lr=min(warmup_lr, lr),
        power=power,
        steps=tuple(steps),
        gamma=gamma,
    )
