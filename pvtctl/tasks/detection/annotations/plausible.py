"""Says when boxes look like something else than COCO's [x, y, width, height]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ENOUGH = 5
"""Objects from which the geometry of a file is judged."""
_SLACK = 1.0
"""Pixels that boxes may reach beyond their image by rounding."""
_CORNERS_BEYOND, _CENTRES_BEYOND, _MOSTLY_BEYOND = 0.2, 0.15, 0.5
"""Share of boxes that reach beyond their images from which corners, centres, and other sizes are suspected."""
_NEARLY_ALL = 0.98

SHAPE_KINDS: dict[str, str] = {
    "looks_like_shares": "boxes that look like shares of the image, 0 to 1, not like pixels",
    "looks_like_corners": "boxes that look like x1 y1 x2 y2, not like x y width height",
    "looks_like_centres": "boxes whose x and y look like the centre, not like the upper left corner",
    "mostly_beyond": "boxes that reach beyond their images, more than half of all: are they of another size?",
    "below_a_pixel": "boxes with a side below one pixel, more than half of all: nothing of them can be seen",
}
"""kind -> what the boxes look like."""


def odd_shapes(boxes: NDArray[Any], sizes: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """(kind, the boxes (N,) that show it), at most one kind.

    `boxes` (N, 4) are finite, `sizes` (N, 2) the (height, width) of their images.
    """
    if len(boxes) < _ENOUGH:
        return
    limits = sizes[:, ::-1]
    start, extent = boxes[:, :2], boxes[:, 2:]
    if np.abs(boxes).max() <= 1.5 and np.median(limits) >= 8:
        yield "looks_like_shares", np.ones(len(boxes), np.bool_)
        return
    beyond: NDArray[np.bool_] = (start + extent > limits + _SLACK).any(1)
    as_corners = (extent > start).all(1) & (extent <= limits + _SLACK).all(1) & (start >= -_SLACK).all(1)
    inside = (start - extent / 2 >= -_SLACK) & (start + extent / 2 <= limits + _SLACK)
    as_centres = inside.all(1)
    thin = np.asarray((extent < 1).any(1), np.bool_)
    if beyond.mean() >= _CORNERS_BEYOND and as_corners.mean() >= _NEARLY_ALL:
        yield "looks_like_corners", beyond
    elif beyond.mean() >= _CENTRES_BEYOND and as_centres.mean() >= _NEARLY_ALL:
        yield "looks_like_centres", beyond
    elif beyond.mean() > _MOSTLY_BEYOND:
        yield "mostly_beyond", beyond
    elif thin.mean() > 0.5:
        yield "below_a_pixel", thin
