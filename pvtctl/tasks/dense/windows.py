"""Sliding-window inference for images larger than the network is meant for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.structures import ImageSize


@dataclass(frozen=True)
class Window:
    """Window size and step, (height, width)."""

    size: ImageSize
    stride: ImageSize


def sliding_window(size: ImageSize | None, stride: ImageSize | None) -> Window | None:
    """The window of `--window` and `--stride` (unset: two thirds of the window). Raises UsageError."""
    if size is None:
        if stride is not None:
            raise UsageError("--stride needs --window, the window that slides", "--window 512x512")
        return None
    height, width = size
    stride = stride or (max(1, height * 2 // 3), max(1, width * 2 // 3))
    if stride[0] > height or stride[1] > width:
        raise UsageError(
            f"a stride of {stride[0]}x{stride[1]} is larger than the window of {height}x{width}", "lower --stride"
        )
    return Window((height, width), stride)


def slide(network: Callable[[Tensor], Tensor], images: Tensor, window: Window) -> Tensor:
    """Maps (B, K, H, W) of images (B, 3, H, W): the mean over all windows that cover a pixel.

    `network` maps (B, 3, h, w) to (B, K, h, w). The last window of a row or column is moved back to end with the image,
    so that all are of one size; a side shorter than the window's is taken whole.
    """
    height, width = int(images.shape[2]), int(images.shape[3])
    rows, columns = (
        _starts(side, size, stride)
        for side, size, stride in zip((height, width), window.size, window.stride, strict=True)
    )
    total: Tensor | None = None
    seen = images.new_zeros(1, 1, height, width)
    for top in rows:
        for left in columns:
            part = (..., slice(top, top + window.size[0]), slice(left, left + window.size[1]))
            out = network(images[part]).float()
            if total is None:
                total = out.new_zeros(len(images), out.shape[1], height, width)
            total[part] += out
            seen[part] += 1
    assert total is not None
    return total.div_(seen)


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(side - window, 0)
    return [*range(0, last, stride), last]
