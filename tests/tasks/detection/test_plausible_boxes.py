"""Boxes written as something else than x, y, width, height are named; plausible ones never are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtctl.tasks.detection.annotations.plausible import odd_shapes

SIZES = np.tile([[120, 160]], (40, 1))


def boxes(seed: int = 0) -> np.ndarray:
    """40 boxes x y w h inside of 160x120 images."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.8, (40, 2)) * (160, 120)
    extent = random.uniform(0.1, 1, (40, 2)) * ((160, 120) - corner)
    return np.concatenate([corner, extent.clip(max=60)], 1)


def kinds(of: np.ndarray, sizes: np.ndarray = SIZES) -> list[str]:
    return [kind for kind, _ in odd_shapes(of, sizes)]


@pytest.mark.parametrize("seed", range(5))
def test_each_other_meaning_is_named(seed: int) -> None:
    xywh = boxes(seed)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
    centres = np.concatenate([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], 1)
    assert kinds(xywh) == []
    assert kinds(corners) == ["looks_like_corners"]
    assert kinds(centres) == ["looks_like_centres"]
    assert kinds(xywh / (160, 120, 160, 120)) == ["looks_like_shares"]
    assert kinds(xywh * 4) == ["mostly_beyond"]
    assert kinds(xywh * (1, 1, 1e-3, 1)) == ["below_a_pixel"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.1))
def test_sets_with_a_few_boxes_beyond_are_plausible(seed: int, share: float) -> None:
    some = boxes(seed)
    some[: int(share * len(some)), 2] = 200
    assert kinds(some) == []


def test_a_handful_is_not_judged() -> None:
    assert kinds(np.array([[100.0, 100, 150, 119]] * 4), SIZES[:4]) == []
    assert kinds(np.zeros((0, 4)), SIZES[:0]) == []
