"""Mask R-CNN's head (arXiv 1703.06870) on an FPN: proposals, then class, box and mask of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from pvtctl.errors import UsageError
from pvtctl.models.heads.base import DetectionHead
from pvtctl.models.heads.boxes import SCORE_THRESHOLD, ShiftCoder, best_detections
from pvtctl.models.heads.proposals import RoiPooler, RoiSample, RoiSampler, Rpn, covered, mask_targets
from pvtctl.models.layers.patches import use_channels_last
from pvtctl.models.registry import COARSEST, Conventions, Levels
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Maps, MaskGrids, Objects, Sizes

CELLS_BOX, CELLS_MASK = 7, 14
COUNTED_PROPOSALS, COUNTED_DETECTIONS = 1000, 100
"""Boxes per image counted in the box head and the mask head: the number in the papers' configurations."""


class BoxPredictor(nn.Module):
    """Features (N, C) -> scores of K classes and, last, background; and the shifts (N, 4 * K) to each class's own box."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(channels, num_classes + 1)
        self.bbox_pred = nn.Linear(channels, num_classes * 4)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class MaskRcnn(DetectionHead):
    """Five maps (B, in_channels, h, w) of strides 4 to 64 -> losses or detections, as in PVT v1's configurations; with
    `levels` those of other strides, the last one for proposals only if it is beyond 32.

    Training samples 256 anchors and `rois_per_image` proposals per image (see `Rpn`, `RoiSampler`). The modules are
    torchvision's; box layers are initialised as in mmdetection. `conventions="torchvision"` changes anchors, RoIAlign and
    post-processing to those of torchvision's maskrcnn_resnet50_fpn; losses stay the papers'. Its files have background
    first among classes, boxes and masks: here `cls_score` has it last, and the others have none.

    `in_channels` is also the width of every convolution, and a quarter of the box head's.
    """

    network_parts = ("boxes", "masks", "pooler", "rpn.raw")
    graph_parts = ("rpn.raw",)

    def __init__(
        self,
        num_classes: int,
        *,
        conventions: Conventions = "papers",
        in_channels: int = 256,
        rois_per_image: int = 512,
        levels: Levels = (2, 6),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.rounded = conventions == "torchvision"
        self.rpn = Rpn(in_channels, conventions=conventions, levels=levels)
        self.pooler = RoiPooler(conventions=conventions, levels=(levels[0], min(levels[1], COARSEST)))
        self.sampler = RoiSampler(rois_per_image)
        self.coder = ShiftCoder((10.0, 10.0, 5.0, 5.0), conventions=conventions)
        self.box_head = TwoMLPHead(in_channels * CELLS_BOX**2, 4 * in_channels)
        self.box_predictor = BoxPredictor(4 * in_channels, num_classes)
        self.mask_head = MaskRCNNHeads(in_channels, (in_channels,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(in_channels, in_channels, num_classes)
        for layer in (self.box_head.fc6, self.box_head.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        use_channels_last(self)

    def boxes(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of proposals (N, C, 7, 7) -> scores (N, K + 1), before the softmax, and shifts (N, 4 * K)."""
        scores, shifts = self.box_predictor(self.box_head(pooled))
        return scores.float(), shifts.float()

    def masks(self, pooled: Tensor) -> Tensor:
        """Maps of boxes (N, C, 14, 14) -> (N, K, 28, 28), before the sigmoid."""
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits.float()

    def raw_outputs(self, features: Maps, sizes: Sizes, padded: ImageSize) -> list[Tensor]:
        """The second stage runs on empty regions, independent of the first."""
        boxes, masks = (
            features[0].new_zeros(number * len(sizes), features[0].shape[1], cells, cells)
            for number, cells in ((COUNTED_PROPOSALS, CELLS_BOX), (COUNTED_DETECTIONS, CELLS_MASK))
        )
        objectness, shifts = self.rpn.raw(features)
        return [*objectness, *shifts, *self.boxes(boxes), self.masks(masks)]

    def candidate_scores(self, output: tuple[Tensor, Tensor]) -> Tensor:
        return output[0].float().softmax(1)[:, :-1].flatten()

    def losses(self, features: Maps, sizes: Sizes, padded: ImageSize, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """`loss_rpn_cls`, `loss_rpn_box` (see `Rpn.losses`); `loss_cls` (cross-entropy) and `loss_box` (L1), over the number
        of sampled proposals; `loss_mask` (binary cross-entropy over the cells of the ground-truth class's mask).

        `recall`: share of the ground-truth boxes for which a sampled proposal, with an IoU of at least 0.5, gives their class
        the highest score. `proposal_recall`: share overlapped by any proposal with that IoU. Both are 1 without boxes.

        Raises UsageError where targets have no masks.
        """
        if any(objects.masks is None for objects in targets):
            raise UsageError(
                "the annotations have no masks, and Mask R-CNN learns from them",
                "use --head retinanet, which needs boxes only",
            )
        maps = [x.contiguous() for x in features]
        anchors = self.rpn.anchors.grids(features, padded)
        raw = self.rpn.raw(features)
        proposals = self.rpn.propose(raw, anchors, sizes, training=True)
        losses = self.rpn.losses(raw, anchors, [self.rpn.anchors.valid(features, size) for size in sizes], targets)
        samples = [self.sampler(own, objects) for own, objects in zip(proposals, targets, strict=True)]
        scores, shifts = self.boxes(self.pooler(maps, [sample.boxes for sample in samples], CELLS_BOX))
        losses |= self._box_losses(scores, shifts, samples)
        losses |= self._mask_loss(maps, samples, targets)
        return losses | self._recalls(scores.detach(), proposals, samples, targets)

    def _box_losses(self, scores: Tensor, shifts: Tensor, samples: Sequence[RoiSample]) -> dict[str, Tensor]:
        background = self.num_classes
        classes = torch.cat(
            [F.pad(each.labels, (0, len(each.boxes) - len(each.labels)), value=background) for each in samples]
        )
        positive = (classes != background).nonzero()[:, 0]
        aims = torch.cat([self.coder.encode(each.true_boxes, each.positive) for each in samples])
        own = shifts.view(len(shifts), self.num_classes, 4)[positive, classes[positive]]
        number = max(len(classes), 1)
        return {
            "loss_cls": F.cross_entropy(scores, classes, reduction="sum") / number,
            "loss_box": F.l1_loss(own, aims, reduction="sum") / number,
        }

    def _mask_loss(self, maps: Maps, samples: Sequence[RoiSample], targets: Sequence[Objects]) -> dict[str, Tensor]:
        aims = torch.cat(
            [
                mask_targets(objects.masks, sample.positive, sample.truth)
                for objects, sample in zip(targets, samples, strict=True)
                if objects.masks is not None
            ]
        )
        classes = torch.cat([sample.labels for sample in samples])
        # without objects the mask head still takes part, times 0: distributed training waits for its gradient
        logits = _own(self.masks(self.pooler(maps, [sample.positive for sample in samples], CELLS_MASK)), classes)
        loss = F.binary_cross_entropy_with_logits(logits, aims, reduction="sum")
        return {"loss_mask": loss / max(aims.numel(), 1)}

    def _recalls(
        self, scores: Tensor, proposals: Sequence[Tensor], samples: Sequence[RoiSample], targets: Sequence[Objects]
    ) -> dict[str, Tensor]:
        guesses = torch.split(scores.argmax(1), [len(sample.boxes) for sample in samples])
        found, near, total = scores.new_zeros(()), scores.new_zeros(()), sum(map(len, targets))
        for guess, own, sample, objects in zip(guesses, proposals, samples, targets, strict=True):
            right = sample.truth[(guess[: len(sample.labels)] == sample.labels) & sample.proposed]
            hit = torch.zeros(len(objects), device=scores.device)
            found = found + hit.index_fill(0, right, 1.0).sum()
            near = near + covered(own, objects).sum()
        if total == 0:
            return {"recall": torch.ones_like(found), "proposal_recall": torch.ones_like(near)}
        return {"recall": found / total, "proposal_recall": near / total}

    def detect(self, features: Maps, sizes: Sizes, padded: ImageSize, options: DetectOptions) -> list[Detections]:
        """From 1000 proposals per image: each class's box with a score above the threshold, NMS within each class, the best
        `max_detections`, and their masks.
        """
        return self._second_stage(features, self.rpn.raw(features), sizes, padded, options)

    def graph_outputs(self, features: Maps) -> tuple[Tensor, ...]:
        """The maps, and objectness and shifts of the RPN on each. The second stage needs the proposals that NMS leaves."""
        objectness, shifts = self.rpn.raw(features)
        return (*features, *objectness, *shifts)

    def detect_from(
        self, outputs: Sequence[Tensor], sizes: Sizes, padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        levels = len(outputs) // 3
        features, objectness, shifts = (list(outputs[at * levels : (at + 1) * levels]) for at in range(3))
        return self._second_stage(features, (objectness, shifts), sizes, padded, options)

    def _second_stage(
        self,
        features: Maps,
        raw: tuple[list[Tensor], list[Tensor]],
        sizes: Sizes,
        padded: ImageSize,
        options: DetectOptions,
    ) -> list[Detections]:
        maps = [x.contiguous() for x in features]
        proposals = self.rpn.propose(raw, self.rpn.anchors.grids(features, padded), sizes, False)
        scores, shifts = self.boxes(self.pooler(maps, proposals, CELLS_BOX))
        boxes = self.coder.decode(shifts, torch.cat(proposals)).view(-1, self.num_classes, 4)
        each = [len(own) for own in proposals]
        found = [
            self._best_of(own_boxes, own_scores, size, options)
            for own_boxes, own_scores, size in zip(
                torch.split(boxes, each), torch.split(scores.softmax(1)[:, :-1], each), sizes, strict=True
            )
        ]
        classes = torch.cat([one.labels for one in found])
        logits = self.masks(self.pooler(maps, [one.boxes for one in found], CELLS_MASK))
        grids = torch.split(_own(logits, classes).sigmoid(), [len(one) for one in found])
        for one, own in zip(found, grids, strict=True):
            one.grids = MaskGrids(own, rounded=self.rounded)
        return found

    def _best_of(self, boxes: Tensor, scores: Tensor, size: ImageSize, options: DetectOptions) -> Detections:
        """Select detections from boxes (N, K, 4) with scores (N, K)."""
        threshold = SCORE_THRESHOLD if options.score_threshold is None else options.score_threshold
        at, labels = (scores > threshold).nonzero(as_tuple=True)
        boxes, scores = clip_boxes_to_image(boxes[at, labels], size), scores[at, labels]
        if self.rounded:
            large = remove_small_boxes(boxes, 1e-2)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        return best_detections(boxes, scores, labels, options)


def _own(of_all: Tensor, classes: Tensor) -> Tensor:
    """From (N, K, ...) the part of each row's own class, (N, ...)."""
    return of_all[torch.arange(len(classes), device=classes.device), classes]
