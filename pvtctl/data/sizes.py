"""Sizes of resized images. No torch."""

from __future__ import annotations


def resized_size(size: tuple[int, int], short_side: float, long_side: float) -> tuple[int, int]:
    """The largest (height, width) of the same aspect within a short and a long side, rounded as mmcv and the papers' code do."""
    height, width = size
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded_side(side: int, multiple: int) -> int:
    """The next multiple."""
    return -(-side // multiple) * multiple
