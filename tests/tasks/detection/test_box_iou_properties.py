"""IoU of boxes equals pycocotools', for any boxes and crowd flags."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pvtctl.tasks.detection.scoring.matching import box_iou

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

Boxes = NDArray[np.float64]
place, side = st.floats(-50, 300), st.floats(0.5, 200)
cell, cells = st.integers(0, 6), st.integers(1, 4)
box = st.one_of(st.tuples(place, place, side, side), st.tuples(cell, cell, cells, cells))
"""x, y, width, height: anywhere, or on a coarse grid, where boxes often touch and coincide."""


def array(rows: list[tuple[float, float, float, float]]) -> Boxes:
    return np.array(rows, np.float64).reshape(-1, 4)


@EXAMPLES
@given(st.lists(box, min_size=1, max_size=5), st.lists(st.tuples(box, st.booleans()), min_size=1, max_size=5))
def test_equals_pycocotools(
    found: list[tuple[float, float, float, float]], true: list[tuple[tuple[float, float, float, float], bool]]
) -> None:
    crowd = np.array([is_crowd for _, is_crowd in true])
    ours = box_iou(array(found), array([each for each, _ in true]), crowd)
    theirs = coco_mask.iou(array(found), array([each for each, _ in true]), crowd.astype(np.uint8).tolist())
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@EXAMPLES
@given(st.lists(box, max_size=5), st.lists(box, max_size=5))
def test_symmetric_and_within_0_and_1(
    first: list[tuple[float, float, float, float]], second: list[tuple[float, float, float, float]]
) -> None:
    forth = box_iou(array(first), array(second), np.zeros(len(second), bool))
    back = box_iou(array(second), array(first), np.zeros(len(first), bool))
    assert forth.shape == (len(first), len(second))
    np.testing.assert_allclose(forth, back.T, rtol=1e-9)
    assert ((forth >= 0) & (forth <= 1 + 1e-9)).all()


@EXAMPLES
@given(st.lists(box, min_size=1, max_size=5))
def test_a_box_covers_itself(rows: list[tuple[float, float, float, float]]) -> None:
    np.testing.assert_allclose(np.diag(box_iou(array(rows), array(rows), np.zeros(len(rows), bool))), 1, rtol=1e-9)
