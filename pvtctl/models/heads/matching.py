"""Match anchors or proposals to ground-truth boxes, as mmdetection's MaxIoUAssigner."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

NEGATIVE, IGNORED = Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS
"""Match indices of boxes without a ground-truth box (-1), and of those ignored by the losses (-2)."""


class BoxMatcher(Matcher):  # type: ignore[misc]  # torchvision has no types
    """IoU (M, N) of M ground-truth boxes with N anchors -> (N,) int64: the index of the anchor's box, NEGATIVE or IGNORED.

    An anchor gets the box it overlaps most if their IoU is at least `high`, is negative below `low` and ignored between.
    With `best_from` set, each box also gets all anchors that tie for its own best IoU, if that is at least `best_from` and
    above 0; if several boxes claim an anchor, the last one gets it. torchvision's Matcher gives such an anchor the box that
    the anchor overlaps most instead, so that some boxes get no anchor.

    | | high | low | best_from |
    | --- | --- | --- | --- |
    | RetinaNet | 0.5 | 0.4 | 0 |
    | RPN | 0.7 | 0.3 | 0.3 |
    | RoI head | 0.5 | 0.5 | 0.5 |
    """

    def __init__(self, high: float, low: float, *, best_from: float | None) -> None:
        super().__init__(high, low, allow_low_quality_matches=best_from is not None)
        self.best_from = best_from or 0.0

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """Match as described for the class; images without boxes have only negatives."""
        boxes, anchors = match_quality_matrix.shape
        if not boxes or not anchors:
            return torch.full((anchors,), NEGATIVE, dtype=torch.int64, device=match_quality_matrix.device)
        return super().__call__(match_quality_matrix)

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Assign to each box the anchors that tie for its best IoU; writes into `matches`."""
        best = match_quality_matrix.amax(1, keepdim=True)
        wanted = (match_quality_matrix == best) & (best >= self.best_from) & (best > 0)
        box, anchor = wanted.nonzero(as_tuple=True)
        # amax: the later box wins, on every device
        matches.scatter_reduce_(0, anchor, box, "amax", include_self=False)


def match_boxes(matcher: BoxMatcher, boxes: Tensor, anchors: Tensor, valid: Tensor | None = None) -> Tensor:
    """Match ground-truth `boxes` (M, 4) with `anchors` (N, 4); those not `valid` (bool (N,)) are IGNORED."""
    if valid is None:
        return matcher(box_iou(boxes, anchors))
    matches = torch.full((len(anchors),), IGNORED, dtype=torch.int64, device=anchors.device)
    matches[valid] = matcher(box_iou(boxes, anchors[valid]))
    return matches
