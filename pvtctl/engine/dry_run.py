"""Dry run: every step of a training run once, without leaving files."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path

import torch

from pvtctl.engine.checkpoint import CheckpointStore
from pvtctl.engine.distributed import Distributed
from pvtctl.engine.fit import SaveWeights
from pvtctl.engine.log import Say
from pvtctl.engine.protocol import Task
from pvtctl.engine.settings import FitSettings
from pvtctl.engine.step import Stepper, memory_errors
from pvtctl.errors import PvtctlError
from pvtctl.io.console import say


@dataclass(frozen=True)
class DryRunReport:
    """Time and memory of a run, estimated from one step."""

    precision: str
    loss: float
    images_per_step: int
    steps: int
    """Optimiser steps of the whole run."""
    step_seconds: float
    """Duration of the second step (the first one warms up); data loading, if slower, is not included."""
    load_seconds: float
    """Time to the first batch, including the start of the loader."""
    val_batches: int | None
    val_batch_seconds: float
    evaluations: int
    save_seconds: float
    checkpoint_bytes: int
    parameters: int
    frozen_parameters: int
    """Those that are not trained."""
    peak_memory_bytes: int
    memory: str
    """Which memory it is: of the GPU (allocated by torch), or of this process."""
    run_seconds: float
    """Training, evaluation and saving, estimated from the times above."""


def dry_run(
    task: Task,
    settings: FitSettings,
    dist: Distributed,
    *,
    save_weights: SaveWeights,
    layer_depths: tuple[Mapping[str, int], int] | None = None,
    talk: Say = say,
) -> DryRunReport:
    """Take one training step (twice on the same batches, to time it warm), evaluate one validation batch and save once
    to a temporary directory.

    Raises the errors of `fit` (out of memory, no data, full disk), and PvtctlError when the loss is not finite.
    """
    size = task.meta().image_size
    with memory_errors(settings, size):
        stepper = Stepper(task, settings, dist, layer_depths=layer_depths, say=talk)
        began = time.perf_counter()
        task.model.train()
        loader = iter(task.train_loader(epoch=0, first_batch=0, rank=dist.rank, world_size=dist.world_size))
        batches = [next(loader) for _ in range(settings.train.accumulate)]
        load_seconds = time.perf_counter() - began
        outcome = stepper(batches, 0)
        if not outcome.applied:
            raise PvtctlError(
                "the first step's loss is not finite", f"its samples: {', '.join(outcome.bad_ids[:8]) or 'unknown'}"
            )
        began = time.perf_counter()
        stepper(batches, 1)
        _wait_for(dist.device)
        step_seconds = time.perf_counter() - began
        val_batches, val_seconds = _try_validation(task, stepper, dist)
    save_seconds, checkpoint_bytes = _try_saving(task, stepper, save_weights) if dist.is_main else (0.0, 0)
    _, steps = settings.span(stepper.steps_per_epoch, dist.world_size)
    epochs = -(-steps // stepper.steps_per_epoch)
    evaluations = -(-epochs // settings.train.eval_every) * (2 if stepper.ema else 1)
    gpu = dist.device.type == "cuda"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return DryRunReport(
        precision=str(stepper.precision),
        loss=outcome.sums["loss"] / outcome.images,
        images_per_step=settings.batch_size * settings.train.accumulate * dist.world_size,
        steps=steps,
        step_seconds=step_seconds,
        load_seconds=load_seconds,
        val_batches=val_batches,
        val_batch_seconds=val_seconds,
        evaluations=evaluations,
        save_seconds=save_seconds,
        checkpoint_bytes=checkpoint_bytes,
        parameters=sum(parameter.numel() for parameter in task.model.parameters()),
        frozen_parameters=sum(one.numel() for one in task.model.parameters() if not one.requires_grad),
        peak_memory_bytes=torch.cuda.max_memory_allocated(dist.device) if gpu else resident,
        memory="GPU" if gpu else "process",
        run_seconds=steps * step_seconds + evaluations * (val_batches or 0) * val_seconds + epochs * save_seconds,
    )


def _try_validation(task: Task, stepper: Stepper, dist: Distributed) -> tuple[int | None, float]:
    """Number of validation batches if the loader has a length, and seconds per batch."""
    model = task.model.eval()
    loader = task.val_loader(rank=dist.rank, world_size=dist.world_size)
    total = len(loader) if isinstance(loader, Sized) else None
    metric = task.metric()
    for batch in loader:
        began = time.perf_counter()
        batch = task.to_device(batch, dist.device)
        with torch.no_grad(), stepper.precision.autocast(dist.device):
            outputs = task.predict(model, batch)
        metric.update(outputs, batch)
        _wait_for(dist.device)
        return total, time.perf_counter() - began
    raise PvtctlError("the validation data is empty", "check it with: pvtctl data check")


def _try_saving(task: Task, stepper: Stepper, save_weights: SaveWeights) -> tuple[float, int]:
    """Seconds to save a checkpoint, and its bytes."""
    with tempfile.TemporaryDirectory(prefix="pvtctl-dry-run-") as folder:
        began = time.perf_counter()
        path = CheckpointStore(Path(folder)).save(stepper.state_dict(), 0)
        seconds = time.perf_counter() - began
        save_weights(Path(folder) / "best.safetensors", task.model, task.meta())
        return seconds, path.stat().st_size


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
