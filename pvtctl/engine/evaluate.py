"""Scoring a model on a task's validation data, alone or over several ranks."""

from __future__ import annotations

from collections.abc import Callable, Sized

import torch
from torch import nn

from pvtctl.engine.distributed import Distributed
from pvtctl.engine.log import Progress
from pvtctl.engine.precision import Precision
from pvtctl.engine.protocol import Metric, Task


class EvaluationStopped(Exception):
    """A rank was told to stop in the middle; raised on all of them."""


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
    """The task's metric over every validation sample exactly once; call `.compute()` on it.

    On several ranks each scores its share and the states are merged, so that all ranks hold the numbers that one rank
    over all samples would have. `model` is put on the device and left in its former mode. Progress is `shown` on the
    first rank.

    Raises EvaluationStopped on every rank when `should_stop()` turns true on any of them.
    """
    was_training = model.training
    model.to(dist.device).eval()
    metric = task.metric()
    loader = task.val_loader(rank=dist.rank, world_size=dist.world_size)
    total = len(loader) if isinstance(loader, Sized) else None
    stopped = False
    try:
        with torch.no_grad(), Progress(title, total, unit="batches", shown=shown and dist.is_main) as progress:
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
