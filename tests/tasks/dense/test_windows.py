"""Sliding windows: every pixel is covered, and a pixel's value is the mean of the windows over it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from pvtctl.tasks.dense.inference import Window, slide


def by_position(images: Tensor) -> Tensor:
    """Two classes that depend on where in the window a pixel lies, so that overlaps show."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    columns = torch.arange(width, dtype=torch.float32)[None]
    return torch.stack([images[:, 0] + rows, images[:, 1] * columns], 1)


def brute_force(images: Tensor, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """All windows at multiples of the stride that fit, and those that end with the image; then pixel by pixel."""
    _, _, height, width = images.shape
    size = (min(window[0], height), min(window[1], width))
    tops, lefts = (
        sorted({*range(0, side - one + 1, step), side - one})
        for side, one, step in zip((height, width), size, stride, strict=True)
    )
    seen: dict[tuple[int, int], list[Tensor]] = {}
    for top, left in product(tops, lefts):
        out = by_position(images[:, :, top : top + size[0], left : left + size[1]])
        for y, x in product(range(size[0]), range(size[1])):
            seen.setdefault((top + y, left + x), []).append(out[:, :, y, x])
    result = torch.empty(len(images), 2, height, width)
    for y, x in product(range(height), range(width)):
        result[:, :, y, x] = torch.stack(seen[y, x]).mean(0)
    return result


@pytest.mark.parametrize(
    ("image", "window", "stride"),
    [
        ((12, 17), (5, 6), (3, 4)),
        ((12, 17), (5, 6), (5, 6)),
        ((12, 18), (4, 6), (4, 6)),
        ((12, 17), (12, 17), (1, 1)),
        ((5, 17), (8, 6), (2, 5)),  # the height is taken whole
        ((5, 7), (64, 64), (42, 42)),
        ((9, 10), (8, 9), (8, 9)),
        ((7, 7), (3, 3), (1, 2)),
    ],
)
def test_windows_are_averaged(image: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *image, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slide(by_position, images, Window(window, stride)), brute_force(images, window, stride))


@pytest.mark.parametrize("side", [1, 3, 4, 5, 7, 8, 9, 11, 12])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_pixel_is_covered_by_windows_of_one_size(side: int, stride: int) -> None:
    sizes: list[tuple[int, ...]] = []

    def network(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        return torch.ones_like(images[:, :1])

    out = slide(network, torch.zeros(1, 3, side, 6), Window((4, 4), (stride, 4)))
    assert out.equal(torch.ones(1, 1, side, 6))  # a pixel that no window covers would be 0 / 0
    assert set(sizes) == {(min(side, 4), 4)}
    assert len(sizes) == 2 * len({*range(0, max(side - 4, 0), stride), max(side - 4, 0)})


def test_half_precision_is_added_in_full() -> None:
    images = torch.zeros(1, 3, 40, 4)
    out = slide(
        lambda part: torch.full_like(part[:, :1], 2049 / 2048, dtype=torch.bfloat16), images, Window((4, 4), (1, 1))
    )
    assert out.dtype == torch.float32
    assert out.std() == 0
