"""One optimiser step: forward and backward passes, synchronisation of ranks, gradient clipping, update."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvtctl.engine.distributed import Distributed
from pvtctl.engine.log import Say
from pvtctl.engine.optim import build_optimizer, describe_lr, scale_lr, set_lr
from pvtctl.engine.precision import Precision, choose_precision, wants_channels_last
from pvtctl.engine.protocol import Task
from pvtctl.engine.schedule import Schedule
from pvtctl.engine.settings import FitSettings
from pvtctl.errors import PvtctlError, UsageError, is_out_of_memory
from pvtctl.io.cuda import cudnn_search, use_tf32
from pvtctl.io.names import plural


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


@dataclass
class StepOutcome:
    """Result of a step, equal on all ranks except for the sums, which are of this rank."""

    applied: bool
    """False if a loss or gradient was not finite on some rank, so that nothing was updated."""
    flags: list[float]
    """Maximum over all ranks of each input flag."""
    sums: dict[str, float]
    """Each loss times its number of images, summed over this rank's passes."""
    images: int
    grad_norm: float
    """Global norm before clipping."""
    bad_ids: list[str]
    """Samples of this rank's passes with a non-finite loss."""


class Stepper:
    """A task's model on its device, with optimiser, schedule, precision and EMA."""

    def __init__(
        self,
        task: Task,
        settings: FitSettings,
        dist: Distributed,
        *,
        layer_depths: tuple[Mapping[str, int], int] | None = None,
        precision: Precision | None = None,
        say: Say,
    ) -> None:
        self.task = task
        self.settings = settings
        self.dist = dist
        self.steps_per_epoch = task.batches_per_epoch(dist.world_size) // settings.train.accumulate
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"{task.batches_per_epoch(dist.world_size)} batch(es) an epoch do not make one step of "
                f"{plural(settings.train.accumulate, 'pass')} over {plural(settings.batch_size, 'image')} each",
                "lower train.total_batch, train.batch_size or train.accumulate",
            )
        if precision is None and dist.is_main:
            precision = choose_precision(settings.train.precision, dist.device)
        self.precision: Precision = dist.from_main(precision)  # measured once, as results may differ between ranks
        self.scaler = self.precision.scaler(dist.device)
        use_tf32(self.precision.name == "tf32")
        self.one_size = task.meta().image_size is not None
        """Whether all training images have one size, so that searching for cuDNN's fastest algorithms pays."""
        layout = settings.train.channels_last
        channels_last = layout == "on" or (
            layout == "auto" and wants_channels_last(task.model, dist.device, self.precision)
        )
        if settings.train.sync_batch_norm:
            synchronise_batch_norm(task.model, dist)
        task.model.to(dist.device)
        if channels_last:
            task.model.to(memory_format=torch.channels_last)
        wrapped = dist.wrap(task.model)
        self.ddp = wrapped if isinstance(wrapped, nn.parallel.DistributedDataParallel) else None
        compiled: Any = torch.compile(wrapped) if settings.train.compile else wrapped
        self.model: nn.Module = compiled
        ema = settings.train.ema
        self.ema = Ema(task.model, decay=ema.decay, warmup=ema.warmup) if ema.enabled else None
        self.optimizer, self.schedule = self._updates(layer_depths, say)
        say(f"precision {self.precision}{', channels last' if channels_last else ''}")

    def _updates(
        self, layer_depths: tuple[Mapping[str, int], int] | None, say: Say
    ) -> tuple[torch.optim.Optimizer, Schedule]:
        train = self.settings.train
        options, stated = train.optimizer, train.total_batch
        batch = self.settings.batch_size * train.accumulate * self.dist.world_size
        lr = scale_lr(options.lr, batch, stated, options.lr_scaling)
        say(describe_lr(options.lr, batch, stated, options.lr_scaling))
        optimizer = build_optimizer(self.task.model, options, lr, layer_depths)
        min_lr = scale_lr(train.schedule.min_lr, batch, stated, options.lr_scaling)
        curve = train.schedule.model_copy(update={"min_lr": min_lr})
        epochs, _ = self.settings.span(self.steps_per_epoch, self.dist.world_size)
        return optimizer, Schedule(curve, lr=lr, epochs=epochs, steps_per_epoch=self.steps_per_epoch)

    def __call__(
        self, batches: Sequence[Any], step: int, *, attempt: int = 0, flags: Callable[[], Sequence[float]] = tuple
    ) -> StepOutcome:
        """Take step number `step` on `batches`, one per pass.

        All randomness in the model is seeded by (seed, step, rank, attempt), so that no random state needs to be saved.
        `flags()` is called after the passes; the maximum of each over all ranks is returned.
        """
        seed_step(self.settings.train.seed, step, self.dist.rank, attempt)
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [(buffer, buffer.clone()) for buffer in self.task.model.buffers()]
        with cudnn_search(self.one_size):
            sums, finite, sizes = self._passes(batches)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # The only place where the host waits for the device: all that decides on the update or is logged comes at once.
        *values, grad_norm = torch.stack([*finite, *sums.values(), norm]).tolist()
        finite_here, logged = values[: len(finite)], values[len(finite) :]
        # With loss scaling an overflow of the gradients is normal: the scaler skips the step and reduces the scale.
        bad = not all(finite_here) or (self.scaler is None and not np.isfinite(grad_norm))
        agreed = self.dist.reduce([float(bad), *flags()], "max")
        if agreed[0] == 0.0:
            self._update(step, norm)
        else:
            if self.scaler is not None:
                self.scaler.update()
            for buffer, before in buffers:  # batch norm statistics were updated with non-finite values
                buffer.copy_(before)
        ids = [i for b, ok in zip(batches, finite_here, strict=True) if not ok for i in self.task.sample_ids(b)]
        if bad and not ids:  # only the gradient is non-finite: any of the samples may be the cause
            ids = [i for b in batches for i in self.task.sample_ids(b)]
        totals = dict(zip(sums, logged, strict=True)) if agreed[0] == 0.0 else {}
        return StepOutcome(agreed[0] == 0.0, agreed[1:], totals, sum(sizes), grad_norm, ids)

    def _passes(self, batches: Sequence[Any]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Forward and backward over all batches: loss sums, per batch whether it is finite (1.0), and image counts."""
        sums: dict[str, Tensor] = {}
        finite, sizes = [], []
        for number, batch in enumerate(batches):
            images = self.task.batch_size(batch)
            batch = self.task.to_device(batch, self.dist.device)
            last = number == len(batches) - 1
            # Gradients are reduced over ranks once per step, in the last pass.
            with nullcontext() if self.ddp is None or last else self.ddp.no_sync():
                with self.precision.autocast(self.dist.device):
                    losses = self.task.losses(self.model, batch)
                loss = losses["loss"] / len(batches)
                torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value.detach().float() * images
            finite.append(torch.isfinite(loss.detach()).float())
            sizes.append(images)
        return sums, finite, sizes

    def _update(self, step: int, norm: Tensor) -> None:
        if (limit := self.settings.train.clip_grad) is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        set_lr(self.optimizer, self.schedule.at(step))
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.task.model)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: everything that the next step depends on, except its number."""
        return {
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "precision": self.precision.name,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def synchronise_batch_norm(model: nn.Module, dist: Distributed) -> None:
    """Convert batch norm to synchronised batch norm if there are several ranks. Names and values stay the same.

    Raises UsageError for several ranks on the CPU, which torch does not support.
    """
    if dist.world_size == 1:
        return
    if dist.device.type != "cuda":
        raise UsageError(
            f"batch norm cannot be synchronised between {dist.world_size} processes on the CPU",
            "--set train.sync_batch_norm=false, or one process",
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


def seed_step(seed: int, step: int, rank: int, attempt: int = 0) -> None:
    """Seed torch, numpy and Python's random for one step of one rank."""
    words = np.random.SeedSequence([seed, step, rank, attempt]).generate_state(3, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)
    np.random.seed(int(words[2]))
    random.seed(int(words[2]))


@contextmanager
def memory_errors(settings: FitSettings, size: object) -> Iterator[None]:
    """Turn out-of-memory errors into errors with a hint on what to lower; `size` is that of the images, if known."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        at = f" of {size} pixels" if size else ""
        half, passes = max(settings.batch_size // 2, 1), settings.train.accumulate * 2
        raise PvtctlError(
            f"out of memory with {plural(settings.batch_size, 'image')}{at} in one pass",
            f"keep the results and lower the memory: --set train.batch_size={half} --set train.accumulate={passes}, "
            "or --set train.activation_checkpointing=true",
        ) from error
