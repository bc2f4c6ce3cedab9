"""Depth: joins a depth model, its data, losses and metric for the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.dense import DenseModel
from pvtctl.models.losses.depth import gradient_matching, silog, ssi_trimmed
from pvtctl.tasks.dense.inference import DepthInference, to_metres
from pvtctl.tasks.dense.task import DenseTask
from pvtctl.tasks.depth.metric import DepthMetric
from pvtctl.tasks.depth.settings import Loss
from pvtctl.tasks.depth.spec import DEPTH

if TYPE_CHECKING:
    from pvtctl.tasks.depth.report import DepthReport


class DepthTask(DenseTask):
    """A depth model with its data. Scored in metres if the model has a scale, else in inverse depth."""

    spec = DEPTH

    def __init__(
        self,
        model: DenseModel,
        *,
        loss: Loss,
        scoring: Callable[[], DepthMetric],
        **rest: Any,
    ) -> None:
        super().__init__(model, **rest)
        self.loss = loss
        self._scoring = scoring
        self.inference = DepthInference(model, self.testing.window)

    def _losses(self, out: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if (own := self.dense.head.loss(out, targets)) is not None:
            return {"loss_main": own}
        inverse = out[:, 0]
        valid = targets > 0  # the data have no values outside the limits in metres
        truth = torch.where(valid, targets, 1.0)
        if self.loss.name == "silog":
            assert self.dense.scale_shift is not None  # ensured by recipe.agreement
            metres = to_metres(inverse, self.dense.scale_shift)
            losses = {"loss_main": silog(metres, truth, valid, self.loss.variance_focus)}
        else:
            losses = {"loss_main": ssi_trimmed(inverse, 1 / truth, valid, self.loss.trim)}
        if self.loss.gradient_weight:
            losses["loss_gradient"] = self.loss.gradient_weight * gradient_matching(inverse, 1 / truth, valid)
        return losses

    def _kept(self, answer: Tensor) -> NDArray[Any]:
        return answer.cpu().numpy().astype(np.float16)

    def metric(self) -> DepthMetric:
        return self._scoring()

    def report(self, metric: DepthMetric) -> DepthReport:
        from pvtctl.tasks.depth.report import DepthReport

        return DepthReport(self.val, metric, self.samples)

    def draw_samples(self, path: Path) -> None:
        from pvtctl.tasks.depth.report import draw_depth_samples

        draw_depth_samples(path, self.val, self.samples, self.metric())

    def meta(self) -> CheckpointMeta:
        return super().meta().updated(scale_shift=self.dense.scale_shift and list(self.dense.scale_shift))
