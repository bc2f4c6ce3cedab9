"""RetinaNet's head (arXiv 1708.02002): two towers of four convolutions over five levels, focal loss, L1 on box deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import clip_boxes_to_image, sigmoid_focal_loss

from pvtctl.models.heads.base import DetectionHead
from pvtctl.models.heads.boxes import (
    IGNORED,
    SCORE_THRESHOLD,
    BoxMatcher,
    ShiftCoder,
    best_detections,
    match_boxes,
    retinanet_anchors,
)
from pvtctl.models.layers.patches import use_channels_last
from pvtctl.models.layers.precision import full_precision
from pvtctl.models.registry import Conventions, Levels
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Maps, Objects, Sizes

CANDIDATES = 1000
"""Maximum number of scores per level that reach NMS."""


class RetinaNet(DetectionHead):
    """Five maps (B, in_channels, h, w) of strides 8 to 128 -> losses or detections, as in PVT v1's configurations; with
    `levels` those of other strides.

    The modules are torchvision's, initialised as in the paper (normal, std 0.01; scores of 0.01). There is no background
    class: a score is the sigmoid of its class's own output.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        conventions: Conventions = "papers",
        in_channels: int = 256,
        levels: Levels = (3, 7),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        numbers = range(levels[0], levels[1] + 1)
        self.output_names = tuple(f"{what}_p{level}" for what in ("classes", "boxes") for level in numbers)
        self.anchors = retinanet_anchors(conventions, levels)
        self.matcher = BoxMatcher(0.5, 0.4, best_from=0.0)
        self.box_coder = ShiftCoder((1.0, 1.0, 1.0, 1.0), conventions=conventions)
        self.classification_head = RetinaNetClassificationHead(in_channels, self.anchors.per_cell(), num_classes)
        self.regression_head = RetinaNetRegressionHead(in_channels, self.anchors.per_cell())
        use_channels_last(self)

    def raw(self, features: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Per level the class outputs (B, A * K, h, w), before the sigmoid, and the box deltas (B, A * 4, h, w)."""
        classes, boxes = self.classification_head, self.regression_head
        return (
            [classes.cls_logits(classes.conv(x)) for x in features],
            [boxes.bbox_reg(boxes.conv(x)) for x in features],
        )

    def raw_outputs(self, features: Maps, sizes: Sizes, padded: ImageSize) -> list[Tensor]:
        classes, boxes = self.raw(features)
        return [*classes, *boxes]

    def exported(self, features: Maps) -> tuple[Tensor, ...]:
        """Class outputs before the sigmoid, and box deltas, by level."""
        classes, boxes = self.raw(features)
        return (*classes, *boxes)

    def graph_outputs(self, features: Maps) -> tuple[Tensor, ...]:
        return self.exported(features)

    def detect_from(
        self, outputs: Sequence[Tensor], sizes: Sizes, padded: ImageSize, options: DetectOptions
    ) -> list[Detections]:
        levels = len(outputs) // 2
        return self.decode(outputs[:levels], outputs[levels:], sizes, padded, options)

    def candidate_scores(self, output: Sequence[Any]) -> Tensor:
        classes = output[: len(output) // 2] if isinstance(output[0], Tensor) else output[0]
        return torch.cat([level.flatten() for level in classes]).float().sigmoid()

    def losses(self, features: Maps, sizes: Sizes, padded: ImageSize, targets: Sequence[Objects]) -> dict[str, Tensor]:
        """`loss_cls` (focal, gamma 2, alpha 0.25) and `loss_box` (L1), summed over the batch and divided by the number of
        its positive anchors, at least 1. In float32, under autocast too.

        `recall`: share of the ground-truth boxes that some positive anchor would detect, that is, with a score above 0.05 for
        their class and no other class higher; 1 without boxes.
        """
        logits, deltas = (
            torch.cat([per_anchor(x, width) for x in maps], 1)
            for maps, width in zip(self.raw(features), (self.num_classes, 4), strict=True)
        )
        grid = torch.cat(self.anchors.grids(features, padded))
        loss_cls, loss_box, positives, found = logits.new_zeros(4, dtype=torch.float32).unbind()
        nothing = Objects(grid[:1], torch.zeros(1, dtype=torch.int64, device=grid.device))
        with full_precision(logits.device):
            for image, (size, objects) in enumerate(zip(sizes, targets, strict=True)):
                matches = match_boxes(self.matcher, objects.boxes, grid, self.anchors.valid(features, size))
                # All anchors under a mask, not the positive ones alone: a GPU would let the host wait for their number.
                positive, box = matches >= 0, matches.clamp(min=0)
                some = objects if len(objects) else nothing
                labels = some.labels[box]
                scores = logits[image].float()
                loss_cls = loss_cls + class_loss(scores, positive, labels, matches == IGNORED)
                goal = self.box_coder.encode(some.boxes[box], grid)
                apart = F.l1_loss(deltas[image].float(), goal, reduction="none")
                loss_box = loss_box + torch.where(positive[:, None], apart, 0.0).sum()
                positives = positives + positive.sum()
                found = found + recognised(scores.detach(), positive, labels, box, len(objects))
        positives = positives.clamp(min=1)
        boxes = sum(len(objects) for objects in targets)
        recall = found / boxes if boxes else torch.ones_like(found)
        return {"loss_cls": loss_cls / positives, "loss_box": loss_box / positives, "recall": recall}

    def detect(self, features: Maps, sizes: Sizes, padded: ImageSize, options: DetectOptions) -> list[Detections]:
        """Per level the 1000 best scores above the threshold; their boxes, clipped to the image; NMS within each class; the
        best `max_detections` of the rest.
        """
        return self.decode(*self.raw(features), sizes, padded, options)

    def decode(
        self,
        classes: Sequence[Tensor],
        boxes: Sequence[Tensor],
        sizes: Sizes,
        padded: ImageSize,
        options: DetectOptions,
    ) -> list[Detections]:
        """`detect` from the outputs of `raw`, here or in an exported graph; uses no parameters of the head."""
        grids = self.anchors.grids(classes, padded)
        classes = [per_anchor(x, self.num_classes) for x in classes]
        boxes = [per_anchor(x, 4) for x in boxes]
        return [
            self._detect_one([x[i] for x in classes], [x[i] for x in boxes], grids, size, options)
            for i, size in enumerate(sizes)
        ]

    def _detect_one(
        self, classes: list[Tensor], deltas: list[Tensor], grids: list[Tensor], size: ImageSize, options: DetectOptions
    ) -> Detections:
        threshold = SCORE_THRESHOLD if options.score_threshold is None else options.score_threshold
        found = []
        for logits, delta, grid in zip(classes, deltas, grids, strict=True):
            scores, index = best_scores(logits.flatten(), threshold)
            anchor = index // self.num_classes
            box = self.box_coder.decode(delta[anchor], grid[anchor])
            found.append((clip_boxes_to_image(box, size), scores, index % self.num_classes))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return best_detections(boxes, scores, labels, options)


def per_anchor(x: Tensor, width: int) -> Tensor:
    """A map (B, A * width, h, w) -> (B, h * w * A, width), in the order of the anchors; a view when channels_last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)


def class_loss(logits: Tensor, positive: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
    """Sum of the focal loss over logits (N, K): anchors that are `positive` (bool (N,)) have `labels` (N,), `ignored` ones
    (bool (N,)) do not count, all others are background.
    """
    goal = torch.zeros_like(logits).scatter_(1, labels[:, None], positive[:, None].to(logits.dtype))
    each: Tensor = sigmoid_focal_loss(logits, goal, alpha=0.25, gamma=2.0, reduction="none")
    return each.sum(1).masked_fill(ignored, 0.0).sum()


def recognised(logits: Tensor, positive: Tensor, labels: Tensor, box: Tensor, boxes: int) -> Tensor:
    """Number of `boxes` that some `positive` anchor (bool (N,)) recognises, with logits (N, K), labels and box (N,)."""
    best, guess = logits.max(1)
    right = positive & (guess == labels) & (best.sigmoid() > SCORE_THRESHOLD)
    hit = torch.zeros(boxes + 1, dtype=torch.bool, device=logits.device)
    hit[torch.where(right, box, boxes)] = True  # the last entry takes the anchors that recognise nothing
    return hit[:boxes].sum()


def best_scores(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The highest scores above `threshold`, at most CANDIDATES, best first, and their index in logits (N,)."""
    # comparing outputs avoids millions of sigmoids; with the slack the score itself decides
    least = math.log(threshold / (1 - threshold)) - 1e-3 if 0 < threshold < 1 else -math.inf
    index = (logits > least).nonzero()[:, 0]
    scores = logits[index].float().sigmoid()
    above = scores > threshold
    scores, index = scores[above], index[above]
    scores, order = scores.topk(min(CANDIDATES, len(scores)))
    return scores, index[order]
