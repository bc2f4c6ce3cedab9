"""Settings and result of a training run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pvtctl.errors import UsageError


@dataclass(frozen=True)
class FitSettings:
    """Training settings. Fields are named as in the recipe's `train` block, so that its dump can be passed:

    `FitSettings(**recipe.train.model_dump(exclude={"activation_checkpointing"}) | {"batch_size": resolved})`
    """

    epochs: int
    total_batch: int
    """The batch size that `optimizer["lr"]` is stated for."""
    batch_size: int
    """Images per rank and forward pass, as in the task's loader (see `resolve_batch_size`)."""
    iterations: int | None = None
    """Instead of `epochs`: optimiser steps of `total_batch` images; with another batch size, as many images in all."""
    accumulate: int = 1
    """Forward passes per optimiser step."""
    max_steps: int | None = None
    """Stop after this many optimiser steps; schedules still span `epochs`."""
    max_minutes: float | None = None
    """Save and stop, resumable, after this many minutes in this process (a queue's time limit)."""
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `build_optimizer`, and `lr_scaling`."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `build_schedule`, without `lr`, `epochs` and `steps_per_epoch`."""
    clip_grad: float | None = None
    """Maximum global norm of the gradient."""
    ema: Mapping[str, Any] = field(default_factory=dict)
    """`enabled`, `decay`, `warmup`: see `Ema`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    sync_batch_norm: bool = False
    """Synchronise batch norm over all ranks; several ranks need GPUs for it."""
    seed: int = 0
    save_minutes: float = 10.0
    keep_checkpoints: int = 2
    eval_every: int = 1
    log_every: int | None = None
    """Optimiser steps between lines of metrics.jsonl; default: a tenth of an epoch, at most 50."""
    tensorboard: bool = True
    """Write TensorBoard events as well, if it is installed."""

    def span(self, steps_per_epoch: int, world_size: int) -> tuple[float, int]:
        """Epochs that schedules span, and optimiser steps of the whole run."""
        if self.iterations is None:
            return self.epochs, min(self.epochs * steps_per_epoch, self.max_steps or 2**62)
        steps = max(1, round(self.iterations * self.total_batch / (self.batch_size * self.accumulate * world_size)))
        return steps / steps_per_epoch, min(steps, self.max_steps or 2**62)


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
            f"a total batch of {total_batch} does not split evenly over {world_size} rank(s) x {accumulate} pass(es)",
            "set train.batch_size, or a train.total_batch that is a multiple",
        )
    return share
