"""The data part of a task: one loader for all epochs of a split, and the images it skipped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvtctl.data.loader import Loader
from pvtctl.data.samplers import EvalSampler, TrainSampler
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.tasks.base import EvaluationReport, TaskSpec


@dataclass(frozen=True)
class Loading:
    """Settings of the data loaders."""

    batch_size: int
    """Training images per rank and forward pass."""
    eval_batch_size: int
    repeats: int = 1
    """Repeated augmentation: copies of an image in an epoch."""
    workers: int | None = None
    """Loader processes per rank; unset: chosen by the available cores."""
    pin_memory: bool = False
    seed: int = 0


class DataTask:
    """The half of `pvtctl.engine.protocol.Task` that loads data. `train` is None for evaluation only."""

    spec: TaskSpec
    model: nn.Module
    class_names: list[str]
    """Of the head; empty for depth."""
    higher_is_better = True

    def __init__(self, train: Any, val: Any, loading: Loading) -> None:
        self.name = self.spec.name
        self.best_metric = self.spec.main_score
        self.headline = self.spec.headline
        self.train = train
        self.val = val
        self.loading = loading
        for split in (train, val):
            if split is not None:
                split.raw_batches = loading.pin_memory
        self._train_loader: Loader | None = None
        self._val_loader: Loader | None = None

    def train_loader(self, *, epoch: int, first_batch: int, rank: int, world_size: int) -> Iterable[Any]:
        """Batches of this rank in `epoch` from number `first_batch` on. One loader serves all epochs."""
        if self._train_loader is None:
            self._train_loader = self._loader(self.train, self._sampler(rank, world_size), world_size)
        sampler: Any = self._train_loader.sampler
        sampler.set_epoch(epoch, first_batch)
        return self._train_loader

    def batches_per_epoch(self, world_size: int) -> int:
        """Batches per rank, equal on every rank. Raises UsageError if the images do not fill one batch."""
        return len(self._sampler(0, world_size))

    def _sampler(self, rank: int, world_size: int) -> Any:
        """The training sampler of a rank."""
        return TrainSampler(
            len(self.train),
            batch_size=self.loading.batch_size,
            repeats=self.loading.repeats,
            windows=getattr(self.train, "windows", None),
            seed=self.loading.seed,
            rank=rank,
            world_size=world_size,
        )

    def val_loader(self, *, rank: int, world_size: int) -> Iterable[Any]:
        """This rank's share of the validation images."""
        if self._val_loader is None:
            sampler = EvalSampler(
                len(self.val), batch_size=self.loading.eval_batch_size, rank=rank, world_size=world_size
            )
            self._val_loader = self._loader(self.val, sampler, world_size)
        return self._val_loader

    def _loader(self, dataset: Any, sampler: Any, world_size: int) -> Loader:
        assert dataset is not None, "built for evaluation only"
        return Loader(
            dataset,
            sampler,
            workers=self.loading.workers,
            pin_memory=self.loading.pin_memory,
            ranks_here=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        )

    def batch_size(self, batch: Any) -> int:
        return len(batch)

    def sample_ids(self, batch: Any) -> list[str]:
        ids: list[str] = batch.ids
        return ids

    def to_device(self, batch: Any, device: torch.device | str) -> Any:
        return batch.to(device)

    def losses(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Scalars by name; `loss` is the one that is minimised."""
        raise NotImplementedError

    def predict(self, model: nn.Module, batch: Any) -> Any:
        """Outputs in the form that `metric().update` takes."""
        raise NotImplementedError

    def metric(self) -> Any:
        raise NotImplementedError

    def meta(self) -> CheckpointMeta:
        """Metadata stored in every checkpoint."""
        raise NotImplementedError

    def report(self, metric: Any) -> EvaluationReport:
        """Tables and pictures of a metric."""
        raise NotImplementedError

    def draw_samples(self, path: Path) -> None:
        """Draw a few validation images with their latest predictions, if the task keeps any."""

    def fingerprints(self) -> dict[str, str]:
        """Split -> hash of its samples: equal for equal data."""
        return {"train": self.train.fingerprint(), "val": self.val.fingerprint()}

    @property
    def skipped(self) -> dict[str, str]:
        """id -> reason of the images that this rank could not read so far; ids are prefixed with the split."""
        loaders = {"train": self._train_loader, "val": self._val_loader}
        return {
            f"{split}/{name}": reason
            for split, loader in loaders.items()
            if loader is not None
            for name, reason in loader.skipped.items()
        }
