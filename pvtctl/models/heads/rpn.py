"""The region proposal network (RPN) of Mask R-CNN: class-agnostic object proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from pvtctl.models.heads.anchors import rpn_anchors
from pvtctl.models.heads.boxes import ShiftCoder
from pvtctl.models.heads.matching import IGNORED, BoxMatcher, match_boxes
from pvtctl.models.heads.retinanet import per_anchor
from pvtctl.models.structures import ImageSize, Objects

NMS_IOU = 0.7
PROPOSALS = 1000
"""Per image, in training and inference."""
BEFORE_NMS = {True: 2000, False: 1000}
"""Per level; True: training."""
SAMPLED, POSITIVE_SHARE = 256, 0.5
SMALLEST_SIDE = 1e-3
"""Pixels; narrower proposals are dropped."""


class Rpn(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """Maps of strides 4 to 64 -> 1000 proposals per image, and the RPN's losses.

    A shared 3x3 convolution, objectness and box shifts (weights 1, 1, 1, 1) of three anchors per cell. Training: IoU 0.7
    and 0.3, 256 anchors per image, at most half of them positive. Samples are drawn from torch's global generator, which
    the engine seeds for each step, so that a resumed run draws the same.
    """

    def __init__(self, channels: int, *, conventions: Literal["papers", "torchvision"]) -> None:
        anchors = rpn_anchors(conventions)
        super().__init__(channels, anchors.per_cell())
        self.anchors = anchors
        self.coder = ShiftCoder((1.0, 1.0, 1.0, 1.0), conventions=conventions)
        self.matcher = BoxMatcher(0.7, 0.3, best_from=0.3)
        self.sampler = BalancedPositiveNegativeSampler(SAMPLED, POSITIVE_SHARE)

    def raw(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: objectness logits (B, A, h, w) and box shifts (B, A * 4, h, w)."""
        scores, shifts = self(list(features))
        return scores, shifts

    def propose(
        self,
        raw: tuple[list[Tensor], list[Tensor]],
        anchors: Sequence[Tensor],
        sizes: Sequence[ImageSize],
        training: bool,
    ) -> list[Tensor]:
        """Proposals (at most 1000, 4) of each image, best first: the best of each level, after NMS within it."""
        batch = len(sizes)
        scores, shifts, boxes, levels = [], [], [], []
        for level, (logits, deltas, grid) in enumerate(zip(*raw, anchors, strict=True)):
            flat = per_anchor(logits.detach().float(), 1).squeeze(2)
            best, at = flat.topk(min(BEFORE_NMS[training], flat.shape[1]))
            scores.append(best)
            shifts.append(per_anchor(deltas.detach().float(), 4).gather(1, at[:, :, None].expand(-1, -1, 4)))
            boxes.append(grid[at])
            levels.append(torch.full_like(at[0], level))
        decoded = self.coder.decode(torch.cat(shifts, 1).flatten(0, 1), torch.cat(boxes, 1).flatten(0, 1))
        level_of = torch.cat(levels)
        return [
            _best_of(own, score, level_of, size)
            for own, score, size in zip(decoded.view(batch, -1, 4), torch.cat(scores, 1), sizes, strict=True)
        ]

    def losses(
        self,
        raw: tuple[list[Tensor], list[Tensor]],
        anchors: Sequence[Tensor],
        valid: Sequence[Tensor | None],
        targets: Sequence[Objects],
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of the sampled anchors and L1 distance of the positive ones, both over their number.

        `valid`: for each image, which anchors count (None: all).
        """
        scores = torch.cat([per_anchor(logits, 1).float() for logits in raw[0]], 1).squeeze(2)
        shifts = torch.cat([per_anchor(deltas, 4).float() for deltas in raw[1]], 1)
        boxes = torch.cat(list(anchors))
        matches = [match_boxes(self.matcher, own.boxes, boxes, ok) for own, ok in zip(targets, valid, strict=True)]
        positive, negative = self.sampler([sample_labels(match) for match in matches])
        chosen = torch.stack([p | n for p, n in zip(positive, negative, strict=True)]).bool()
        wanted = torch.stack(positive).bool()
        truth = torch.cat([own.boxes[match[mask]] for own, match, mask in zip(targets, matches, wanted, strict=True)])
        aims = self.coder.encode(truth, boxes.expand(len(targets), -1, 4)[wanted])
        number = chosen.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(scores[chosen], wanted[chosen].float(), reduction="sum")
        return {
            "loss_rpn_cls": objectness / number,
            "loss_rpn_box": F.l1_loss(shifts[wanted], aims, reduction="sum") / number,
        }


def sample_labels(matches: Tensor) -> Tensor:
    """Matches in the form of torchvision's sampler: 1 positive, 0 negative, -1 ignored."""
    return torch.where(matches == IGNORED, -1, (matches >= 0).long())


def _best_of(boxes: Tensor, scores: Tensor, levels: Tensor, size: ImageSize) -> Tensor:
    boxes = clip_boxes_to_image(boxes, size)
    large = remove_small_boxes(boxes, SMALLEST_SIDE)
    boxes, scores, levels = boxes[large], scores[large], levels[large]
    kept: Tensor = batched_nms(boxes, scores, levels, NMS_IOU)
    return boxes[kept[:PROPOSALS]]
