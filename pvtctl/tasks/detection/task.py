"""Detection and instance segmentation: joins a detector, its data and COCO's metric for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pvtctl.data.samplers import GroupedTrainSampler
from pvtctl.data.transforms import pad_images
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.detector import Detector
from pvtctl.models.registry import head_spec
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Objects
from pvtctl.tasks.classes import match_classes
from pvtctl.tasks.data_task import DataTask, Loading
from pvtctl.tasks.detection.data import DetectionBatch, DetectionDataset
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.scoring.columns import COCO_LIMIT
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.spec import DETECTION

if TYPE_CHECKING:
    from pvtctl.tasks.detection.report import DetectionReport

NUM_SAMPLES = 6
"""Validation images whose latest detections are kept for drawing."""
NMS_IOU = 0.5
MAX_DETECTIONS = 100
"""Of the merged detections of several views, if `DetectOptions` says nothing."""


@dataclass(frozen=True)
class Testing:
    """Settings of inference and scoring."""

    options: DetectOptions = field(default_factory=DetectOptions)
    scales: tuple[int, ...] = ()
    """Short sides; empty: the data's own test size."""
    flip: bool = False
    backend: str = "auto"
    """Backend of COCO's metrics."""


class DetectionTask(DataTask):
    """A detector of `class_names` (the head's K classes) with its data, whose classes are matched to them by name.

    Without `train` the task can only be evaluated.
    """

    spec = DETECTION

    def __init__(
        self,
        model: Detector,
        *,
        head_name: str,
        head_names: Sequence[str] | None,
        train: DetectionDataset | None,
        val: DetectionDataset,
        loading: Loading,
        testing: Testing,
        settings: DetectionData,
        meta: CheckpointMeta,
    ) -> None:
        super().__init__(train, val, loading)
        self.model: nn.Module = model
        self.testing = testing
        self.head_name = head_name
        self.settings = settings
        self.data_to_head = match_classes(val.class_names, head_names, model.num_classes)
        self.class_names = list(val.class_names if head_names is None else head_names)
        self.head_to_data = torch.full((model.num_classes,), -1, dtype=torch.int64)
        self.head_to_data[self.data_to_head] = torch.arange(len(val.class_names))
        self.samples: dict[int, Detections] = {}
        """Latest detections of a few validation images, by their position in the split."""
        self._picked = {at * len(val) // NUM_SAMPLES for at in range(NUM_SAMPLES)}
        self._meta = meta

    @property
    def has_masks(self) -> bool:
        return head_spec(self.head_name).needs_masks

    def _sampler(self, rank: int, world_size: int) -> GroupedTrainSampler:
        wide = self.train.wide if self.settings.aspect_groups else np.zeros(len(self.train), dtype=np.bool_)
        return GroupedTrainSampler(
            wide, batch_size=self.loading.batch_size, seed=self.loading.seed, rank=rank, world_size=world_size
        )

    def losses(self, model: nn.Module, batch: DetectionBatch) -> Mapping[str, Tensor]:
        """The head's losses and other logged values (`recall`)."""
        labels = self.data_to_head.to(batch.images.device, non_blocking=True)
        targets = [Objects(each.boxes, labels[each.labels], each.masks) for each in batch.targets]
        losses: dict[str, Tensor] = model(batch.images, batch.sizes, targets)
        return losses

    def predict(self, model: nn.Module, batch: DetectionBatch) -> list[Detections]:
        """Detections in pixels of the original images, with the data's labels."""
        if self.testing.flip or self.testing.scales:
            images = zip(batch.indices.tolist(), batch.original_sizes, strict=True)
            found = [self._merged(model, index, size) for index, size in images]
        else:
            found = model(batch.images, batch.sizes, None, self.testing.options, batch.original_sizes)
        found = [self._of_data(one) for one in found]
        kept = zip(batch.indices.tolist(), found, strict=True)
        self.samples |= {index: one for index, one in kept if index in self._picked}
        return found

    def _merged(self, model: nn.Module, index: int, original: ImageSize) -> Detections:
        """Merged detections of one image at several scales, and mirrored."""
        device = next(model.parameters()).device
        views = []
        for short_side in self.testing.scales or (self.settings.test_short_side,):
            for flip in (False, True) if self.testing.flip else (False,):
                image, size = self.val.image_at(index, short_side, self.settings.test_long_side, flip)
                batch = pad_images([image], self.val.pad).to(device)
                found = model(batch, [size], None, self.testing.options, [original])[0]
                views.append(mirrored(found, original) if flip else found)
        return merge_views(views, self.testing.options)

    def _of_data(self, found: Detections) -> Detections:
        """The same detections with the data's labels; other classes are dropped."""
        labels = self.head_to_data.to(found.labels.device, non_blocking=True)[found.labels]
        return Detections(found.boxes, found.scores, labels, found.masks).chosen(labels >= 0)

    @cached_property
    def truth(self) -> dict[str, Any]:
        """The validation split's ground truth in COCO's format."""
        return self.val.to_coco()

    def metric(self) -> DetectionMetric:
        names, ids = self.val.class_names, self.val.category_ids
        limit = self.testing.options.max_detections or COCO_LIMIT
        backend = self.testing.backend
        return DetectionMetric(names, ids, self.truth, masks=self.has_masks, backend=backend, limit=limit)

    def report(self, metric: DetectionMetric) -> DetectionReport:
        from pvtctl.tasks.detection.report import DetectionReport

        return DetectionReport(self.val, metric, self.samples)

    def draw_samples(self, path: Path) -> None:
        from pvtctl.tasks.detection.report import draw_detection_samples

        draw_detection_samples(path, self.val, self.samples)

    def meta(self) -> CheckpointMeta:
        """Metadata needed to use the checkpoint."""
        return self._meta.updated(
            task=self.name,
            head=self.head_name,
            detection=self.settings.plain_values(),
            num_classes=len(self.class_names),
            class_names=self.class_names,
            category_ids=list(self.val.category_ids) if self.class_names == self.val.class_names else None,
        ).with_pixels(self.val.normalization)


def merge_views(views: Sequence[Detections], options: DetectOptions) -> Detections:
    """All detections of all views, all in pixels of one image, after non-maximum suppression within each class."""
    boxes = torch.cat([view.boxes for view in views])
    scores = torch.cat([view.scores for view in views])
    labels = torch.cat([view.labels for view in views])
    masks = None
    if all(view.masks is not None for view in views):
        masks = [mask for view in views for mask in view.masks or ()]
    iou = NMS_IOU if options.nms_iou is None else options.nms_iou
    most = MAX_DETECTIONS if options.max_detections is None else options.max_detections
    kept = batched_nms(boxes.float(), scores.float(), labels, iou)[:most]
    return Detections(boxes, scores, labels, masks).chosen(kept)


def mirrored(found: Detections, size: ImageSize) -> Detections:
    """Detections of an image that was flipped left to right, moved to their positions in the original."""
    left, top, right, bottom = found.boxes.unbind(1)
    boxes = torch.stack([size[1] - right, top, size[1] - left, bottom], dim=1)
    masks = None
    if found.masks is not None:
        masks = [coco_mask.encode(np.asfortranarray(coco_mask.decode(mask)[:, ::-1])) for mask in found.masks]
    return Detections(boxes, found.scores, found.labels, masks)
