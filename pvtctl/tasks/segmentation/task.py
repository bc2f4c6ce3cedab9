"""Semantic segmentation: joins a segmentation model, its data, loss and metric for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.dense import DenseModel
from pvtctl.models.losses.cross_entropy import cross_entropy
from pvtctl.models.structures import IGNORE_LABEL
from pvtctl.tasks.classes import match_classes
from pvtctl.tasks.dense.inference import LabelInference
from pvtctl.tasks.dense.task import DenseTask
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.segmentation.spec import SEGMENTATION

if TYPE_CHECKING:
    from pvtctl.tasks.segmentation.report import SegmentationReport


class SegmentationTask(DenseTask):
    """A segmentation model of `class_names` (the head's K classes) with its data, matched to them by name."""

    spec = SEGMENTATION

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
        self.inference = LabelInference(model, self.testing.window, None if self.plain else to_data)

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        labels = targets if self.plain else self.to_head.to(targets.device, non_blocking=True)[targets.long()]
        # logged in training; a sixteenth of the pixels is accurate enough and cheap
        few, true = out.detach()[:, :, ::4, ::4].argmax(1), labels[:, ::4, ::4]
        labelled = true != IGNORE_LABEL
        right = ((few == true) & labelled).sum() / labelled.sum().clamp(min=1)
        own = self.dense.head.loss(out, labels)
        return {"loss_main": cross_entropy(out, labels) if own is None else own, "pixel_acc": right}

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        return answer.cpu().numpy()

    def metric(self) -> SegmentationMetric:
        return SegmentationMetric(self.val.class_names)

    def report(self, metric: SegmentationMetric) -> SegmentationReport:
        from pvtctl.tasks.segmentation.report import SegmentationReport

        return SegmentationReport(self.val, metric, self.samples)

    def draw_samples(self, path: Path) -> None:
        from pvtctl.tasks.segmentation.report import draw_segmentation_samples

        draw_segmentation_samples(path, self.val, self.samples)

    def meta(self) -> CheckpointMeta:
        palette = self.val.source.palette if self.class_names == self.val.class_names else None
        names = self.class_names
        return super().meta().updated(num_classes=len(names), class_names=names, palette=palette)
