"""Base of segmentation and depth tasks: a dense model with its data for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.dense import DenseModel
from pvtctl.tasks.data_task import DataTask, Loading
from pvtctl.tasks.dense.data import DenseBatch, DenseDataset
from pvtctl.tasks.dense.inference import DenseInference, DenseTesting

NUM_SAMPLES = 6
"""Validation images whose latest predictions are kept for drawing."""


class DenseTask(DataTask):
    """Base of segmentation and depth tasks. Without `train` the task can only be evaluated."""

    inference: DenseInference

    def __init__(
        self,
        model: DenseModel,
        *,
        train: DenseDataset | None,
        val: DenseDataset,
        loading: Loading,
        testing: DenseTesting,
        meta: CheckpointMeta,
    ) -> None:
        super().__init__(train, val, loading)
        self.model: nn.Module = model
        self.dense = model
        """The model itself, without training wrappers."""
        self.testing = testing
        self.class_names = list(val.class_names)
        self.samples: dict[int, NDArray[Any]] = {}
        """Latest maps of a few validation images, by their position in the split."""
        self._picked = {at * len(val) // NUM_SAMPLES for at in range(NUM_SAMPLES)}
        self._meta = meta

    def losses(self, model: nn.Module, batch: DenseBatch) -> Mapping[str, Tensor]:
        """The loss on the map and on every auxiliary one."""
        size = (int(batch.images.shape[2]), int(batch.images.shape[3]))
        targets = torch.stack(batch.targets)
        weight = self.dense.head.auxiliary_weight
        out, others = model(batch.images, True)
        # resized in fp32: in autocast's bf16 the mean of two neighbours has three digits
        losses = self._losses(self.dense.at_size(out.float(), size), targets)
        for at, other in enumerate(others):
            own = self._losses(self.dense.at_size(other.float(), size), targets)
            losses[f"loss_auxiliary{at or ''}"] = weight * own.pop("loss_main")
        total = torch.stack([value for name, value in losses.items() if name.startswith("loss_")]).sum()
        return {"loss": total, **losses}

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss_main`, added and only logged terms for maps (B, K, H, W) at the targets' size."""
        raise NotImplementedError

    def predict(self, model: nn.Module, batch: DenseBatch) -> list[Tensor]:
        """A map for each image, in pixels of the file."""
        if self.testing.views != [(1.0, False)]:
            found, device = [], batch.images.device
            for index, original in zip(batch.indices.tolist(), batch.original_sizes, strict=True):
                views = ((self.val.image_at(index, *view).to(device), view[1]) for view in self.testing.views)
                found.append(self.inference.predict_tta(model, views, original))
        elif len(set(batch.sizes)) == 1:
            found = self.inference.predict_batch(model, batch.images, batch.original_sizes)
        else:  # padding must not change a prediction
            found = [
                self.inference.predict_batch(model, batch.images[at : at + 1, :, : size[0], : size[1]], [original])[0]
                for at, (size, original) in enumerate(zip(batch.sizes, batch.original_sizes, strict=True))
            ]
        for index, one in zip(batch.indices.tolist(), found, strict=True):
            if index in self._picked:
                self.samples[index] = self._kept(one)
        return found

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        """A prediction in the form kept in `samples`."""
        raise NotImplementedError

    def meta(self) -> CheckpointMeta:
        """Metadata needed to use the checkpoint."""
        return self._meta.updated(task=self.name).with_pixels(self.val.normalization)
