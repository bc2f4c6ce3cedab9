"""Semantic segmentation and depth: joins a dense model, its data, losses and metric for the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pvtctl.data import TrainSampler
from pvtctl.data.dense import DenseBatch, DenseDataset
from pvtctl.data.transforms import NORMALIZATIONS
from pvtctl.dense import DenseModel
from pvtctl.losses.depth import gradient_matching, silog, ssi_trimmed
from pvtctl.losses.segmentation import cross_entropy
from pvtctl.metrics.depth import DepthMetric
from pvtctl.metrics.segmentation import SegmentationMetric
from pvtctl.structures import IGNORE_LABEL
from pvtctl.tasks.answers import Answers, DenseTesting, DepthAnswers, LabelAnswers, to_metres
from pvtctl.tasks.classes import match_classes
from pvtctl.tasks.loading import DataTask, Loading

NUM_SAMPLES = 6
"""Validation images whose latest maps are kept, to be drawn."""


class DenseTask(DataTask):
    """What segmentation and depth share. Without `train` the task can only be evaluated."""

    name: str
    answers: Answers

    def __init__(
        self,
        model: DenseModel,
        *,
        train: DenseDataset | None,
        val: DenseDataset,
        loading: Loading,
        testing: DenseTesting,
        meta: Mapping[str, Any],
    ) -> None:
        super().__init__(train, val, loading)
        self.model: nn.Module = model
        self.dense = model
        """The model itself, however it is wrapped for training."""
        self.testing = testing
        self.class_names = list(val.class_names)
        self.samples: dict[int, NDArray[Any]] = {}
        """Latest maps of a few validation images, by their position in the split."""
        self._picked = {at * len(val) // NUM_SAMPLES for at in range(NUM_SAMPLES)}
        self._meta = dict(meta)

    def _sampler(self, rank: int, world_size: int) -> TrainSampler:
        return TrainSampler(
            len(self.train),
            batch_size=self.loading.batch_size,
            repeats=1,
            seed=self.loading.seed,
            rank=rank,
            world_size=world_size,
        )

    def losses(self, model: nn.Module, batch: DenseBatch) -> Mapping[str, Tensor]:
        """The loss on the map and on every auxiliary one."""
        size = (int(batch.images.shape[2]), int(batch.images.shape[3]))
        targets = torch.stack(batch.targets)
        weight = self.dense.head.auxiliary_weight
        out, others = model(batch.images, True)
        # resized in fp32: of what autocast gives, bf16, the mean of two neighbours has three digits
        losses = self._losses(self.dense.at_size(out.float(), size), targets)
        for at, other in enumerate(others):
            own = self._losses(self.dense.at_size(other.float(), size), targets)
            losses[f"loss_auxiliary{at or ''}"] = weight * own.pop("loss_main")
        total = torch.stack([value for name, value in losses.items() if name.startswith("loss_")]).sum()
        return {"loss": total, **losses}

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss_main`, what is added to it, and what is only logged, of maps (B, K, H, W) at the targets' size."""
        raise NotImplementedError

    def predict(self, model: nn.Module, batch: DenseBatch) -> list[Tensor]:
        """A map for each image, in pixels of the file."""
        if self.testing.views != [(1.0, False)]:
            found = [
                self.answers.of_views(model, self._views(int(index), batch.images.device), original)
                for index, original in zip(batch.indices, batch.original_sizes, strict=True)
            ]
        elif len(set(batch.sizes)) == 1:
            found = self.answers.of_batch(model, batch.images, batch.original_sizes)
        else:  # padding must not change what is said of an image
            found = [
                self.answers.of_batch(model, batch.images[at : at + 1, :, : size[0], : size[1]], [original])[0]
                for at, (size, original) in enumerate(zip(batch.sizes, batch.original_sizes, strict=True))
            ]
        for index, one in zip(batch.indices.tolist(), found, strict=True):
            if index in self._picked:
                self.samples[index] = self._kept(one)
        return found

    def _views(self, index: int, device: torch.device) -> Iterator[tuple[Tensor, bool]]:
        for ratio, mirrored in self.testing.views:
            yield self.val.image_at(index, ratio, mirrored).to(device), mirrored

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        """An answer as `samples` keeps it."""
        raise NotImplementedError

    def meta(self) -> dict[str, Any]:
        """What someone who finds the checkpoint must know to use it."""
        mean, std = NORMALIZATIONS[self.val.normalization]
        return {
            **self._meta,
            "task": self.name,
            "normalization": self.val.normalization,
            "mean": list(mean),
            "std": list(std),
        }


class SegmentationTask(DenseTask):
    """A segmentation model of `class_names` (the head's K classes) with its data, matched to them by name."""

    name = "segmentation"
    best_metric = "miou"
    headline: tuple[str, ...] = ("miou", "pixel_acc", "mean_acc", "boundary_f")

    def __init__(self, model: DenseModel, *, head_names: Sequence[str] | None, **rest: Any) -> None:
        super().__init__(model, **rest)
        data_names = self.val.class_names
        data_to_head = match_classes(data_names, head_names, model.num_classes)
        self.class_names = list(data_names if head_names is None else head_names)
        self.plain = data_to_head.tolist() == list(range(model.num_classes))
        to_head = torch.full((256,), IGNORE_LABEL, dtype=torch.uint8)
        to_head[: len(data_names)] = data_to_head.to(torch.uint8)
        self.to_head = to_head
        """uint8 (256,): the data's label -> the head's."""
        to_data = torch.full((256,), IGNORE_LABEL, dtype=torch.uint8)
        to_data[data_to_head] = torch.arange(len(data_names), dtype=torch.uint8)
        self.answers = LabelAnswers(model, self.testing.window, None if self.plain else to_data)

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        labels = targets if self.plain else self.to_head.to(targets.device)[targets.long()]
        # told while it learns; a sixteenth of the pixels says enough and costs nothing
        few, true = out.detach()[:, :, ::4, ::4].argmax(1), labels[:, ::4, ::4]
        labelled = true != IGNORE_LABEL
        right = ((few == true) & labelled).sum() / labelled.sum().clamp(min=1)
        return {"loss_main": cross_entropy(out, labels), "pixel_acc": right}

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        return answer.cpu().numpy()

    def metric(self) -> SegmentationMetric:
        return SegmentationMetric(self.val.class_names)

    def meta(self) -> dict[str, Any]:
        return {
            **super().meta(),
            "num_classes": len(self.class_names),
            "class_names": self.class_names,
            "palette": self.val.source.palette if self.class_names == self.val.class_names else None,
        }


class DepthTask(DenseTask):
    """A depth model with its data. It is scored in metres where the model has a scale, else in inverse depth."""

    name = "depth"
    best_metric = "delta1"
    headline: tuple[str, ...] = ("delta1", "abs_rel", "rmse")

    def __init__(
        self,
        model: DenseModel,
        *,
        loss: Mapping[str, Any],
        scoring: Callable[[], DepthMetric],
        **rest: Any,
    ) -> None:
        super().__init__(model, **rest)
        self.loss = dict(loss)
        """The recipe's `train.loss`."""
        self._scoring = scoring
        self.answers = DepthAnswers(model, self.testing.window)

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        inverse = out[:, 0]
        valid = targets > 0  # the data leave nothing else outside of the limits in metres
        truth = torch.where(valid, targets, 1.0)
        if self.loss["name"] == "silog":
            assert self.dense.scale_shift is not None  # recipe.agreement holds it
            metres = to_metres(inverse, self.dense.scale_shift)
            losses = {"loss_main": silog(metres, truth, valid, self.loss["variance_focus"])}
        else:
            losses = {"loss_main": ssi_trimmed(inverse, 1 / truth, valid, self.loss["trim"])}
        if self.loss["gradient_weight"]:
            matching = gradient_matching(inverse, 1 / truth, valid)
            losses["loss_gradient"] = self.loss["gradient_weight"] * matching
        return losses

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        return answer.cpu().numpy().astype(np.float16)

    def metric(self) -> DepthMetric:
        return self._scoring()

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), "scale_shift": self.dense.scale_shift and list(self.dense.scale_shift)}
