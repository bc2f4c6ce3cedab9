"""Image classification: joins a classifier, its data, loss and metric for the engine (`pvtctl.engine.protocol.Task`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pvtctl.data.base import Sample
from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.losses.cross_entropy import classification_loss
from pvtctl.tasks.classes import match_classes
from pvtctl.tasks.classification.data import Batch, ClassificationDataset
from pvtctl.tasks.classification.metric import ClassificationMetric
from pvtctl.tasks.classification.mixup import Mixup
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.spec import CLASSIFICATION
from pvtctl.tasks.data_task import DataTask, Loading

if TYPE_CHECKING:
    from pvtctl.tasks.classification.report import ClassificationReport


class ClassificationTask(DataTask):
    """A classifier over `class_names` (the head's K classes) with its data.

    `train` and `val` are splits over the same classes, which are all or some of the head's, in any order; labels are
    matched by name. Without `train` the task can only be evaluated. `head_names` is None if a checkpoint's class
    names are unknown: the data's are then taken in order.
    """

    spec = CLASSIFICATION

    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        head_names: Sequence[str] | None,
        train: ClassificationDataset | None,
        val: ClassificationDataset,
        loading: Loading,
        augment: Augment,
        meta: CheckpointMeta,
    ) -> None:
        super().__init__(train, val, loading)
        self.model = model
        self.label_to_head = match_classes(val.class_names, head_names, num_classes)
        self.class_names = list(val.class_names if head_names is None else head_names)
        self.mixup = Mixup(num_classes, augment)
        self._meta = meta

    def losses(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Cross entropy against the mixed and smoothed targets; the mixing is keyed by the batch's draws."""
        labels = self.label_to_head.to(batch.labels.device, non_blocking=True)[batch.labels]
        images, targets = self.mixup(batch.images, labels, batch.key)
        return {"loss": classification_loss(model(images), targets)}

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        return model(batch.images)

    def metric(self) -> ClassificationMetric:
        return ClassificationMetric(self.class_names, label_to_head=self.label_to_head)

    def report(self, metric: ClassificationMetric) -> ClassificationReport:
        from pvtctl.tasks.classification.report import ClassificationReport

        return ClassificationReport(self, metric)

    def meta(self) -> CheckpointMeta:
        """Metadata needed to use the checkpoint."""
        return self._meta.updated(
            task=self.name,
            num_classes=len(self.class_names),
            class_names=self.class_names,
        ).with_pixels(self.val.normalization)

    def seen_image(self, index: int) -> RgbImage | None:
        """The validation image after the evaluation transform, uint8 (H, W, 3); None when it cannot be read."""
        sample = self.val[Draw(0, index)]
        return to_rgb(denormalize(sample.image, self.val.normalization)) if isinstance(sample, Sample) else None
