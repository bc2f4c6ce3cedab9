"""Paste the grids of a mask head into image masks, as COCO run-length encodings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvtctl.models.structures import Detections, ImageSize


def place_detections(found: Detections, size: ImageSize, output_size: ImageSize) -> Detections:
    """Scale the detections of an image of `size` to `output_size` and paste their masks."""
    boxes = found.boxes
    if tuple(output_size) != tuple(size):
        (height, width), (out_height, out_width) = size, output_size
        across, down = out_width / width, out_height / height
        boxes = boxes * boxes.new_tensor([across, down, across, down])
    if found.grids is None:
        return replace(found, boxes=boxes)
    masks = paste_masks(found.grids.probabilities, boxes, output_size, rounded=found.grids.rounded)
    return replace(found, boxes=boxes, masks=masks, grids=None)


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: ImageSize, *, rounded: bool = False
) -> list[dict[str, Any]]:
    """COCO RLEs at `size` (height, width) of probabilities (N, S, S) resized to boxes (N, 4) xyxy: bilinear, above 0.5.

    One mask at a time, and only within its box: a hundred full-size float images would not fit small machines. `rounded`:
    torchvision's way, see `MaskGrids`.
    """
    from pycocotools import mask as coco_mask

    height, width = size
    grids, corners = probabilities.detach().float().cpu(), boxes.detach().float().cpu()
    if rounded:
        grids, corners = _with_border(grids, corners)
    encoded: list[dict[str, Any]] = []
    for grid, (left, top, right, bottom) in zip(grids, corners.tolist(), strict=True):
        rows = _weights(top, bottom, height, len(grid), rounded)
        columns = _weights(left, right, width, len(grid), rounded)
        # Fortran order, as the encoder needs it, without a copy
        canvas = np.zeros((width, height), np.uint8).T
        if rows is not None and columns is not None:
            (y, down), (x, across) = rows, columns
            inside = down @ grid @ across.T > 0.5
            canvas[y : y + len(down), x : x + len(across)] = inside.numpy()
        encoded.append(dict(coco_mask.encode(canvas)))
    return encoded


def _weights(start: float, end: float, limit: int, cells: int, rounded: bool) -> tuple[int, Tensor] | None:
    """The first pixel that a box side covers in 0..limit, and the weights of the grid's cells for each pixel from there.

    Bilinear sampling is a product of one such matrix (pixels, cells) for the rows and one for the columns.
    """
    if rounded:
        first, last = math.trunc(start), math.trunc(end) + 1
        length = max(last - first, 1)
        pixels = torch.arange(length) + 0.5
        at = (pixels * cells / length - 0.5).clamp(0, cells - 1)
        keep = slice(max(-first, 0), max(min(last, limit) - first, 0))
        first, at = max(first, 0), at[keep]
    else:
        # half a cell around the box still has weight, but never more than half: it stays below 0.5
        first = max(math.floor(start), 0)
        last = max(min(math.ceil(end), limit), first)
        at = (torch.arange(first, last) + 0.5 - start) * (cells / max(end - start, 1e-6)) - 0.5
    if len(at) == 0:
        return None
    return first, (1 - (at[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def _with_border(grids: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Add a cell of zeros around each grid, and enlarge the boxes to match (torchvision's `paste_masks_in_image`)."""
    cells = grids.shape[-1]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = half * ((cells + 2) / cells)
    return torch.nn.functional.pad(grids, (1, 1, 1, 1)), torch.cat((centre - half, centre + half), 1)
