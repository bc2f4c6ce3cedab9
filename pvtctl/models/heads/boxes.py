"""Boxes in detectors: anchors, their matches with ground-truth boxes, and shifts from one box to another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher, encode_boxes
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, box_iou

from pvtctl.models.registry import Conventions, Levels
from pvtctl.models.structures import Detections, DetectOptions, ImageSize, Maps

SCORE_THRESHOLD, NMS_IOU, MAX_DETECTIONS = 0.05, 0.5, 100
"""Default values of DetectOptions."""

RATIOS = (0.5, 1.0, 2.0)
"""Height over width, for all anchor generators."""

KEPT_GRIDS = 8
"""Grids are cached for that many combinations of input size and device; multi-scale training has more, and recomputes."""


class AnchorGrid(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors (x1, y1, x2, y2) around every cell of every map, in pixels of the network's input.

    Cells are in row-major order; a cell's anchors are ordered by ratio (1/2, 1, 2), then by size. `sizes` holds for each
    level the square roots of the anchors' areas.

    `papers` (mmdetection 2.13): not rounded, centred on (x * stride, y * stride) with the `strides` given.
    `torchvision`: corners rounded to whole pixels, and a level's stride is the input's size // the map's.
    """

    def __init__(
        self, sizes: Sequence[tuple[float, ...]], strides: Sequence[int], *, conventions: Conventions = "papers"
    ) -> None:
        self.rounded = conventions == "torchvision"
        super().__init__(tuple(sizes), (RATIOS,) * len(sizes))
        self.strides = tuple(strides)
        self._kept: dict[tuple[object, ...], list[Tensor]] = {}

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> Tensor:
        """The anchors of a cell at the origin (ratios * sizes, 4)."""
        heights = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        sizes = torch.tensor(scales, dtype=dtype, device=device)
        w, h = (1 / heights * sizes).flatten(), (heights * sizes).flatten()
        corners = torch.stack((-w, -h, w, h), dim=1) / 2
        return corners.round() if self.rounded else corners

    def per_cell(self) -> int:
        """Anchors per cell, the same on every level."""
        return self.num_anchors_per_location()[0]

    def grids(self, features: Maps, padded: ImageSize) -> list[Tensor]:
        """Per level (h * w * anchors per cell, 4), float32, for maps (B, C, h, w) of inputs of size `padded`.

        Read-only: they are cached.
        """
        shapes, device = [tuple(f.shape[-2:]) for f in features], features[0].device
        key = (*shapes, padded, device)
        if key not in self._kept:
            if len(self._kept) >= KEPT_GRIDS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = self._make_grids(shapes, padded, device)
        return self._kept[key]

    def _make_grids(self, shapes: list[tuple[int, ...]], padded: ImageSize, device: torch.device) -> list[Tensor]:
        strides = [(s, s) for s in self.strides]
        if self.rounded:
            strides = [(padded[0] // h, padded[1] // w) for h, w in shapes]
        with torch.inference_mode(False):  # cached grids are used in training too
            self.cell_anchors = [
                self.generate_anchors(s, r).to(device, non_blocking=True)
                for s, r in zip(self.sizes, self.aspect_ratios, strict=True)
            ]
            return self.grid_anchors(shapes, strides)

    def valid(self, features: Maps, size: ImageSize) -> Tensor | None:
        """Bool (anchors of all levels,): whether its cell is in the image of `size` (h, w); None when all are.

        The image's own size counts, rounded up to a multiple of 32, not the batch's; anchors outside are neither positive nor
        negative. torchvision has no such rule, hence None with its conventions.
        """
        if self.rounded:
            return None
        height, width = (math.ceil(side / 32) * 32 for side in size)
        flags, all_valid = [], True
        for feature, stride in zip(features, self.strides, strict=True):
            h, w = feature.shape[-2:]
            rows, columns = min(h, math.ceil(height / stride)), min(w, math.ceil(width / stride))
            all_valid &= (rows, columns) == (h, w)
            flag = torch.zeros(h, w, self.per_cell(), dtype=torch.bool, device=feature.device)
            flag[:rows, :columns] = True
            flags.append(flag.flatten())
        return None if all_valid else torch.cat(flags)


def strides_of_levels(levels: Levels) -> tuple[int, ...]:
    """Pixels per cell of each level of a pyramid.

    >>> strides_of_levels((3, 5))
    (8, 16, 32)
    """
    return tuple(2**level for level in range(levels[0], levels[1] + 1))


def retinanet_anchors(conventions: Conventions, levels: Levels = (3, 7)) -> AnchorGrid:
    """Three octave sizes and three ratios per cell, on strides 8 to 128 unless `levels` differ (RetinaNet, arXiv 1708.02002,
    section 4).

    `papers`: 4 * stride * 2^(i/3); torchvision truncates the sizes to whole pixels.
    """
    strides = strides_of_levels(levels)
    sizes = [tuple(4 * stride * 2 ** (i / 3) for i in range(3)) for stride in strides]
    if conventions == "torchvision":
        sizes = [tuple(int(size) for size in level) for level in sizes]
    return AnchorGrid(sizes, strides, conventions=conventions)


def rpn_anchors(conventions: Conventions, levels: Levels = (2, 6)) -> AnchorGrid:
    """One size, 8 * stride, and three ratios per cell, on strides 4 to 64 unless `levels` differ (FPN, arXiv 1612.03144,
    section 4.1)."""
    strides = strides_of_levels(levels)
    return AnchorGrid([(8 * stride,) for stride in strides], strides, conventions=conventions)


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
        # max finds the first of equals: from the end, the last box that claims the anchor
        claimed, from_end = wanted.flip(0).to(torch.uint8).max(0)
        matches.copy_(torch.where(claimed > 0, len(wanted) - 1 - from_end, matches))


def match_boxes(matcher: BoxMatcher, boxes: Tensor, anchors: Tensor, valid: Tensor | None = None) -> Tensor:
    """Match ground-truth `boxes` (M, 4) with `anchors` (N, 4); those not `valid` (bool (N,)) are IGNORED."""
    overlaps = box_iou(boxes, anchors)
    if valid is None:
        return matcher(overlaps)
    # masked, not picked out: a GPU would let the host wait for the number of valid anchors
    return matcher(overlaps.masked_fill(~valid, -1.0)).masked_fill(~valid, IGNORED)


LARGEST_GROWTH = math.log(1000 / 16)
"""Logarithm of the largest change in size."""


class ShiftCoder:
    """Encode the shift of the centre over the size, and the logarithm of the change in size, times `weights` (x, y, w, h).

    Sizes grow at most 1000 / 16 times; in the papers' configurations (mmdetection) they also shrink at most by that.
    """

    def __init__(self, weights: tuple[float, float, float, float], *, conventions: Conventions) -> None:
        self.weights = weights
        self.shrinks_freely = conventions == "torchvision"

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Shifts (N, 4) from `anchors` (N, 4) to `boxes` (N, 4)."""
        # with the weights as plain numbers: as a tensor they would be copied to the device each time
        shifts: Tensor = encode_boxes(boxes.float(), anchors.float(), self.weights)
        return shifts

    def decode(self, shifts: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4 * M), for shifts (N, 4 * M) from `anchors` (N, 4)."""
        shifts, anchors = shifts.float(), anchors.float()
        starts, ends = [], []
        for axis in (0, 1):
            side = anchors[:, axis + 2, None] - anchors[:, axis, None]
            centre = anchors[:, axis, None] + 0.5 * side
            weight = self.weights[axis + 2]
            growth = shifts[:, axis + 2 :: 4]
            if not self.shrinks_freely:
                growth = growth.clamp(min=-LARGEST_GROWTH * weight)
            half = 0.5 * ((growth / weight).clamp(max=LARGEST_GROWTH).exp() * side)
            middle = shifts[:, axis::4] / self.weights[axis] * side + centre
            starts.append(middle - half)
            ends.append(middle + half)
        return torch.stack((*starts, *ends), dim=2).flatten(1)


def best_detections(boxes: Tensor, scores: Tensor, labels: Tensor, options: DetectOptions) -> Detections:
    """The best of (N, 4) boxes after NMS within each class."""
    keep = batched_nms(boxes, scores, labels, NMS_IOU if options.nms_iou is None else options.nms_iou)
    keep = keep[: MAX_DETECTIONS if options.max_detections is None else options.max_detections]
    return Detections(boxes[keep], scores[keep], labels[keep])
