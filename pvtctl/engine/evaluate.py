"""Evaluate a model on a task's validation data, on one or several ranks."""

from __future__ import annotations

from collections.abc import Callable, Sized

import torch
from torch import nn

from pvtctl.engine.distributed import Distributed
from pvtctl.engine.log import Progress
from pvtctl.engine.precision import Precision
from pvtctl.engine.protocol import Metric, Task
from pvtctl.io.cuda import use_tf32
from pvtctl.models.fast_cpu.packed import packed_weights


class EvaluationStopped(Exception):
    """A rank got a stop request during evaluation; raised on all ranks."""


def evaluate(
    task: Task,
    model: nn.Module,
    dist: Distributed,
    precision: Precision,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    title: str = "evaluate",
    shown: bool = True,
) -> Metric:
    """The task's metric, updated with every validation sample exactly once; call `.compute()` on it.

    Each rank evaluates its share and the states are merged, so that all ranks have the result of one rank over all
    samples. `model` is moved to the device; its training mode is restored. Progress is `shown` on rank 0.

    Raises EvaluationStopped on every rank when `should_stop()` returns true on any of them.
    """
    use_tf32(precision.name == "tf32")
    was_training = model.training
    model.to(dist.device).eval()
    metric = task.metric()
    loader = task.val_loader(rank=dist.rank, world_size=dist.world_size)
    total = len(loader) if isinstance(loader, Sized) else None
    stopped = False
    try:
        with (
            torch.no_grad(),
            packed_weights(model),
            Progress(title, total, unit="batches", shown=shown and dist.is_main) as progress,
        ):
            for batch in loader:
                if stopped := should_stop():
                    break
                batch = task.to_device(batch, dist.device)
                with precision.autocast(dist.device):
                    outputs = task.predict(model, batch)
                metric.update(outputs, batch)
                progress.advance()
    finally:
        model.train(was_training)
    states = dist.gather(None if stopped else metric.state())
    if any(state is None for state in states):
        raise EvaluationStopped
    metric.merge(states)
    return metric
