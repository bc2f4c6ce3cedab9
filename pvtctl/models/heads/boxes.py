"""Boxes encoded as shifts from other boxes, as in both stages of Mask R-CNN."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


class ShiftCoder:
    """Encode the shift of the centre over the size, and the logarithm of the change in size, times `weights` (x, y, w, h).

    Sizes grow at most 1000 / 16 times; in the papers' configurations (mmdetection) they also shrink at most by that.
    """

    def __init__(
        self, weights: tuple[float, float, float, float], *, conventions: Literal["papers", "torchvision"]
    ) -> None:
        self.coder = BoxCoder(weights)
        self.least: Tensor | None = None
        if conventions == "papers":
            factor = -self.coder.bbox_xform_clip
            self.least = torch.tensor([-torch.inf, -torch.inf, factor * weights[2], factor * weights[3]])

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Shifts (N, 4) from `anchors` (N, 4) to `boxes` (N, 4)."""
        shifts: Tensor = self.coder.encode_single(boxes.float(), anchors.float())
        return shifts

    def decode(self, shifts: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4 * M), for shifts (N, 4 * M) from `anchors` (N, 4)."""
        shifts = shifts.float()
        if self.least is not None:
            shifts = shifts.maximum(self.least.to(shifts.device).repeat(shifts.shape[1] // 4))
        boxes: Tensor = self.coder.decode_single(shifts, anchors.float())
        return boxes
