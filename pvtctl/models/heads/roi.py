"""The second stage of Mask R-CNN: RoIAlign of proposals, their sampling, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou, roi_align

from pvtctl.models.heads.matching import BoxMatcher
from pvtctl.models.heads.rpn import sample_labels
from pvtctl.models.structures import Objects

STRIDES = (4, 8, 16, 32)
FINEST_SIDE = 56
"""Pixels; boxes with sqrt(area) below twice this use the finest level."""
SAMPLED, POSITIVE_SHARE, OVERLAP = 512, 0.25, 0.5
MASK_CELLS = 28
_MASKS_AT_ONCE = 16


class RoiPooler:
    """RoIAlign of boxes, each from the level that fits its size, on maps of strides 4, 8, 16, 32.

    `papers`: pixel centres at half coordinates, as many samples per cell as it covers positions.
    `torchvision`: no half-pixel shift, 2 x 2 samples.
    """

    def __init__(self, *, conventions: Literal["papers", "torchvision"]) -> None:
        self.aligned = conventions == "papers"
        self.samples = -1 if conventions == "papers" else 2

    def __call__(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], cells: int) -> Tensor:
        """(all boxes of the batch, C, cells, cells); `boxes` (N_i, 4) of each image, in pixels."""
        rois = torch.cat(
            [torch.cat((own.new_full((len(own), 1), image), own), 1) for image, own in enumerate(boxes)]
        ).float()
        levels = level_of(rois[:, 1:])
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], cells, cells)
        for level, (features, stride) in enumerate(zip(maps, STRIDES, strict=False)):
            at = (levels == level).nonzero()[:, 0]
            # in float32 for all maps: half precision misplaces boxes by pixels
            cut = roi_align(features.float(), rois[at], cells, 1 / stride, self.samples, self.aligned)
            out = out.index_put((at,), cut.to(out.dtype))
        return out


def level_of(boxes: Tensor) -> Tensor:
    """Index into STRIDES for each box: floor(log2(sqrt(area) / 56)), at least 0 and at most 3 (FPN, equation 1)."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (sides / FINEST_SIDE + 1e-6).log2().floor().clamp(0, len(STRIDES) - 1).long()


@dataclass
class RoiSample:
    """The boxes of one image that the second stage is trained on."""

    boxes: Tensor
    """(S, 4), the positive ones first."""
    truth: Tensor
    """(P,) index of the ground-truth object of each positive box."""
    proposed: Tensor
    """bool (P,): the box is a proposal, not an added ground-truth box."""


class RoiSampler:
    """Sample `boxes_per_image` boxes, at most a quarter positive (IoU 0.5), from proposals and ground-truth boxes.

    Random numbers are from torch's global generator, see `Rpn`.
    """

    def __init__(self, boxes_per_image: int = SAMPLED) -> None:
        self.matcher = BoxMatcher(OVERLAP, OVERLAP, best_from=OVERLAP)
        self.sampler = BalancedPositiveNegativeSampler(boxes_per_image, POSITIVE_SHARE)

    def __call__(self, proposals: Tensor, objects: Objects) -> RoiSample:
        matches = self.matcher(box_iou(objects.boxes, proposals))
        own = torch.arange(len(objects), device=matches.device)
        matches, boxes = torch.cat((own, matches)), torch.cat((objects.boxes, proposals))
        positive, negative = (mask[0].nonzero()[:, 0] for mask in self.sampler([sample_labels(matches)]))
        return RoiSample(torch.cat((boxes[positive], boxes[negative])), matches[positive], positive >= len(objects))


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
