"""Settings and result of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.recipe.schema import Train


@dataclass(frozen=True)
class FitSettings:
    """The recipe's `train` block, and what it leaves open."""

    train: Train
    batch_size: int
    """Images per rank and forward pass, as in the task's loader (see `resolve_batch_size`)."""
    log_every: int | None = None
    """Optimiser steps between lines of metrics.jsonl; default: a tenth of an epoch, at most 50."""
    tensorboard: bool = True
    """Write TensorBoard events as well, if it is installed."""

    def span(self, steps_per_epoch: int, world_size: int) -> tuple[float, int]:
        """Epochs that schedules span, and optimiser steps of the whole run."""
        train = self.train
        if train.iterations is None:
            return train.epochs, min(train.epochs * steps_per_epoch, train.max_steps or 2**62)
        images = train.iterations * train.total_batch
        steps = max(1, round(images / (self.batch_size * train.accumulate * world_size)))
        return steps / steps_per_epoch, min(steps, train.max_steps or 2**62)


@dataclass(frozen=True)
class FitResult:
    """Result of a finished run."""

    metrics: dict[str, float]
    """The last evaluation: of the EMA weights if there are any."""
    best: dict[str, float]
    """The evaluation of `best.safetensors`."""
    best_epoch: int
    """Counted from 1."""
    epochs: int
    steps: int
    seconds: float
    """Total over all parts of a resumed run."""
    skipped: int
    """Optimiser steps skipped for a non-finite loss."""


def resolve_batch_size(total_batch: int, batch_size: int | None, accumulate: int, world_size: int) -> int:
    """Images per rank and forward pass: `batch_size`, or `total_batch` divided by ranks and passes.

    Raises UsageError when `total_batch` does not divide evenly.
    """
    if batch_size is not None:
        return batch_size
    share, rest = divmod(total_batch, accumulate * world_size)
    if rest or share == 0:
        raise UsageError(
            f"a total batch of {total_batch} does not split evenly over {plural(world_size, 'rank')} x {plural(accumulate, 'pass')}",
            "set train.batch_size, or a train.total_batch that is a multiple",
        )
    return share
