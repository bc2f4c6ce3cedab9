"""Image classification: joins a classifier, its data, loss and metric for the engine (`pvtctl.engine.protocol.Task`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvtctl.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Batch,
    ClassificationDataset,
    Draw,
    EvalSampler,
    Loader,
    Mixup,
    Sample,
    TrainSampler,
    build_loader,
)
from pvtctl.data.transforms import denormalize
from pvtctl.losses.classification import classification_loss
from pvtctl.metrics.classification import ClassificationMetric
from pvtctl.tasks.classes import match_classes


@dataclass(frozen=True)
class Loading:
    """How images reach the model."""

    batch_size: int
    """Training images per rank and forward pass."""
    eval_batch_size: int
    repeats: int = 1
    """Repeated augmentation: copies of an image in an epoch."""
    workers: int | None = None
    """Loader processes per rank; unset: chosen from the cores at hand."""
    pin_memory: bool = False
    seed: int = 0


class ClassificationTask:
    """A classifier over `class_names` (the head's K classes) with its data.

    `train` and `val` are splits over the same classes, which are all or some of the head's, in any order; labels are
    matched by name. Without `train` the task can only be evaluated. `head_names` is None where a checkpoint's class
    names are not known: the data's are then taken in order.
    """

    name = "classification"
    best_metric = "top1"
    higher_is_better = True

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        head_names: Sequence[str] | None,
        train: ClassificationDataset | None,
        val: ClassificationDataset,
        loading: Loading,
        augment: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.train = train
        self.val = val
        self.loading = loading
        self.label_to_head = match_classes(val.class_names, head_names, num_classes)
        self.class_names = list(val.class_names if head_names is None else head_names)
        self.mixup = Mixup.from_augment(num_classes, augment)
        self._meta = dict(meta)
        self._train_loader: Loader | None = None
        self._val_loader: Loader | None = None

    def train_loader(self, *, epoch: int, first_batch: int, rank: int, world_size: int) -> Iterable[Batch]:
        """Batches of this rank in `epoch` from number `first_batch` on. One loader serves all epochs: its processes stay."""
        if self._train_loader is None:
            self._train_loader = self._loader(self._training_data(), self._sampler(rank, world_size), world_size)
        sampler = self._train_loader.sampler
        assert isinstance(sampler, TrainSampler)
        sampler.set_epoch(epoch, first_batch)
        return self._train_loader

    def batches_per_epoch(self, world_size: int) -> int:
        """Per rank, equal on every rank. Raises UsageError when the images do not fill one batch."""
        return len(self._sampler(0, world_size))

    def _training_data(self) -> ClassificationDataset:
        assert self.train is not None, "built for evaluation only"
        return self.train

    def _sampler(self, rank: int, world_size: int) -> TrainSampler:
        return TrainSampler(
            len(self._training_data()),
            batch_size=self.loading.batch_size,
            seed=self.loading.seed,
            repeats=self.loading.repeats,
            rank=rank,
            world_size=world_size,
        )

    def _loader(self, dataset: ClassificationDataset, sampler: TrainSampler | EvalSampler, world_size: int) -> Loader:
        return build_loader(
            dataset,
            sampler,
            workers=self.loading.workers,
            pin_memory=self.loading.pin_memory,
            ranks_here=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
        )

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Cross entropy against the mixed and smoothed targets; the mixing is keyed by the batch's draws."""
        labels = self.label_to_head.to(batch.labels.device)[batch.labels]
        images, targets = self.mixup(batch.images, labels, batch.key)
        return {"loss": classification_loss(model(images), targets)}

    def batch_size(self, batch: Batch) -> int:
        return len(batch)

    def sample_ids(self, batch: Batch) -> list[str]:
        return batch.ids

    def to_device(self, batch: Batch, device: torch.device | str) -> Batch:
        return batch.to(device)

    def val_loader(self, *, rank: int, world_size: int) -> Iterable[Batch]:
        """This rank's share of the validation images."""
        if self._val_loader is None:
            sampler = EvalSampler(
                len(self.val), batch_size=self.loading.eval_batch_size, rank=rank, world_size=world_size
            )
            self._val_loader = self._loader(self.val, sampler, world_size)
        return self._val_loader

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        return model(batch.images)

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(self.class_names, label_to_head=self.label_to_head)

    def meta(self) -> dict[str, Any]:
        """What someone who finds the checkpoint must know to use it."""
        return {
            **self._meta,
            "task": self.name,
            "num_classes": len(self.class_names),
            "class_names": self.class_names,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        }

    @property
    def skipped(self) -> dict[str, str]:
        """id -> reason of the images that this rank could not read so far; the split stands before the id."""
        loaders = {"train": self._train_loader, "val": self._val_loader}
        return {
            f"{split}/{name}": reason
            for split, loader in loaders.items()
            if loader is not None
            for name, reason in loader.skipped.items()
        }

    def seen_image(self, index: int) -> np.ndarray | None:
        """The validation image as the model sees it, uint8 (H, W, 3); None when it cannot be read."""
        sample = self.val[Draw(0, index)]
        return denormalize(sample.image).permute(1, 2, 0).numpy() if isinstance(sample, Sample) else None
