"""Mask R-CNN's region proposal network (RPN), and the sampling, pooling and targets of its second stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes, roi_align

from pvtctl.models.heads.boxes import IGNORED, BoxMatcher, ShiftCoder, match_boxes, rpn_anchors, strides_of_levels
from pvtctl.models.heads.retinanet import per_anchor
from pvtctl.models.registry import Conventions, Levels
from pvtctl.models.structures import ImageSize, Maps, Objects, Sizes

NMS_IOU = 0.7
PROPOSALS = 1000
"""Per image, in training and inference."""
BEFORE_NMS = {True: 2000, False: 1000}
"""Per level; True: training."""
SMALLEST_SIDE = 1e-3
"""Pixels; narrower proposals are dropped."""

POOLED: Levels = (2, 5)
"""The levels that boxes are cut from, unless a neck makes others."""
FINEST_SIDE = 56
"""Pixels; boxes with sqrt(area) below twice this use level 2."""
OVERLAP = 0.5
"""Least IoU of a positive box of the second stage."""
MASK_CELLS = 28
_MASKS_AT_ONCE = 16


class Rpn(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """Maps of strides 4 to 64 -> 1000 proposals per image, and the RPN's losses.

    A shared 3x3 convolution, objectness and box shifts (weights 1, 1, 1, 1) of three anchors per cell. Training: IoU 0.7
    and 0.3, 256 anchors per image, at most half of them positive. Samples are drawn from torch's global generator, which
    the engine seeds for each step, so that a resumed run draws the same.
    """

    def __init__(self, channels: int, *, conventions: Conventions, levels: Levels = (2, 6)) -> None:
        anchors = rpn_anchors(conventions, levels)
        super().__init__(channels, anchors.per_cell())
        self.anchors = anchors
        self.coder = ShiftCoder((1.0, 1.0, 1.0, 1.0), conventions=conventions)
        self.matcher = BoxMatcher(0.7, 0.3, best_from=0.3)
        self.sampler = BalancedPositiveNegativeSampler(256, 0.5)

    def raw(self, features: Maps) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: objectness logits (B, A, h, w) and box shifts (B, A * 4, h, w)."""
        scores, shifts = self(list(features))
        return scores, shifts

    def propose(
        self, raw: tuple[list[Tensor], list[Tensor]], anchors: Sequence[Tensor], sizes: Sizes, training: bool
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


class RoiPooler:
    """RoIAlign of boxes, each from the level that fits its size, on maps of strides 4, 8, 16, 32, or of `levels`.

    `papers`: pixel centres at half coordinates, as many samples per cell as it covers positions.
    `torchvision`: no half-pixel shift, 2 x 2 samples.
    """

    def __init__(self, *, conventions: Conventions, levels: Levels = POOLED) -> None:
        self.levels = levels
        self.aligned = conventions == "papers"
        self.samples = -1 if conventions == "papers" else 2

    def __call__(self, maps: Maps, boxes: Sequence[Tensor], cells: int) -> Tensor:
        """(all boxes of the batch, C, cells, cells); `boxes` (N_i, 4) of each image, in pixels."""
        rois = torch.cat(
            [torch.cat((own.new_full((len(own), 1), image), own), 1) for image, own in enumerate(boxes)]
        ).float()
        levels = level_of(rois[:, 1:], self.levels)
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], cells, cells)
        for level, (features, stride) in enumerate(zip(maps, strides_of_levels(self.levels), strict=False)):
            at = (levels == level).nonzero()[:, 0]
            # in float32 for all maps: half precision misplaces boxes by pixels
            cut = roi_align(features.float(), rois[at], cells, 1 / stride, self.samples, self.aligned)
            out = out.index_put((at,), cut.to(out.dtype))
        return out


def level_of(boxes: Tensor, levels: Levels = POOLED) -> Tensor:
    """Index into `levels` for each box: level 2 + floor(log2(sqrt(area) / 56)), or the nearest there is (FPN, equation 1)."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    first, last = (level - POOLED[0] for level in levels)
    return ((sides / FINEST_SIDE + 1e-6).log2().floor().clamp(first, last) - first).long()


@dataclass
class RoiSample:
    """The boxes of one image that the second stage is trained on."""

    boxes: Tensor
    """(S, 4), the positive ones first."""
    truth: Tensor
    """(P,) index of the ground-truth object of each positive box."""
    true_boxes: Tensor
    """(P, 4), of those objects."""
    labels: Tensor
    """(P,), theirs."""
    proposed: Tensor
    """bool (P,): the box is a proposal, not an added ground-truth box."""

    @property
    def positive(self) -> Tensor:
        """The positive boxes (P, 4)."""
        return self.boxes[: len(self.truth)]


class RoiSampler:
    """Sample `boxes_per_image` boxes, at most a quarter positive (IoU 0.5), from proposals and ground-truth boxes.

    Random numbers are from torch's global generator, see `Rpn`.
    """

    def __init__(self, boxes_per_image: int = 512) -> None:
        self.matcher = BoxMatcher(OVERLAP, OVERLAP, best_from=OVERLAP)
        self.sampler = BalancedPositiveNegativeSampler(boxes_per_image, 0.25)

    def __call__(self, proposals: Tensor, objects: Objects) -> RoiSample:
        matches = self.matcher(box_iou(objects.boxes, proposals))
        own = torch.arange(len(objects), device=matches.device)
        matches, boxes = torch.cat((own, matches)), torch.cat((objects.boxes, proposals))
        positive, negative = (mask[0].nonzero()[:, 0] for mask in self.sampler([sample_labels(matches)]))
        chosen, truth = torch.cat((boxes[positive], boxes[negative])), matches[positive]
        return RoiSample(chosen, truth, objects.boxes[truth], objects.labels[truth], positive >= len(objects))


def mask_targets(masks: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
    """Targets of the mask head: the ground-truth masks[which] (of bool (N, H, W)) within boxes (P, 4), as (P, 28, 28) of
    0 and 1. A cell is 1 if at least half of it is in the object.
    """
    targets = boxes.new_zeros(len(boxes), MASK_CELLS, MASK_CELLS)
    # full-size float images: a few at a time
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        at = ((which >= start) & (which < start + _MASKS_AT_ONCE)).nonzero()[:, 0]
        if len(at):
            some = masks[start : start + _MASKS_AT_ONCE, None].float()
            rois = torch.cat(((which[at] - start).float()[:, None], boxes[at]), 1)
            targets[at] = (roi_align(some, rois, MASK_CELLS, 1.0, -1, True)[:, 0] >= 0.5).float()
    return targets


def covered(proposals: Tensor, objects: Objects) -> Tensor:
    """bool (N,): the ground-truth boxes that some proposal overlaps with an IoU of 0.5 or more."""
    if not len(proposals):
        return torch.zeros(len(objects), dtype=torch.bool, device=objects.boxes.device)
    return box_iou(objects.boxes, proposals).amax(1) >= OVERLAP
