"""Properties of box shifts (`ShiftCoder`), for boxes and anchors of any place and size."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvtctl.models.heads.boxes import ShiftCoder

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)
LARGEST = 1000 / 16
"""How many times its anchor's side a decoded box can have (and, by the papers' conventions, 1 / LARGEST at least)."""

Convention = Literal["papers", "torchvision"]
conventions = st.sampled_from(["papers", "torchvision"])
weights = st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
side = st.floats(1, 500, width=32)
place = st.floats(-500, 1500, width=32)


@st.composite
def some_boxes(draw: st.DrawFn, count: int) -> Tensor:
    """float32 (count, 4), xyxy, sides from 1 to 500 pixels."""
    rows = [(draw(place), draw(place), draw(side), draw(side)) for _ in range(count)]
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rows])


def sides(boxes: Tensor) -> Tensor:
    return boxes.view(-1, 4)[:, 2:] - boxes.view(-1, 4)[:, :2]


@EXAMPLES
@given(some_boxes(3), some_boxes(3), weights, conventions)
def test_decoding_undoes_encoding(
    boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float], conventions: Convention
) -> None:
    ratio = sides(boxes) / sides(anchors)
    assume(bool(((ratio < LARGEST * 0.99) & (ratio > 1.01 / LARGEST)).all()))
    coder = ShiftCoder(weights, conventions=conventions)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=2e-2)


@EXAMPLES
@given(some_boxes(3), weights, conventions)
def test_an_anchor_is_no_shift_from_itself(
    anchors: Tensor, weights: tuple[float, float, float, float], conventions: Convention
) -> None:
    coder = ShiftCoder(weights, conventions=conventions)
    torch.testing.assert_close(coder.encode(anchors, anchors), torch.zeros(3, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(coder.decode(torch.zeros(3, 4), anchors), anchors, rtol=1e-5, atol=1e-3)


@EXAMPLES
@given(some_boxes(2), st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8), conventions)
def test_decoded_sides_are_limited(anchors: Tensor, shifts: list[float], conventions: Convention) -> None:
    coder = ShiftCoder((1.0, 1.0, 1.0, 1.0), conventions=conventions)
    decoded = coder.decode(torch.tensor(shifts).view(2, 4), anchors)
    slack = 1e-4 * decoded.abs().amax() + 1e-3  # sides are differences of float32 corners
    assert (sides(decoded) <= LARGEST * sides(anchors) * 1.001 + slack).all()
    if conventions == "papers":
        assert (sides(decoded) >= sides(anchors) / LARGEST * 0.999 - slack).all()


@EXAMPLES
@given(some_boxes(2), some_boxes(2), st.integers(-512, 512), st.integers(-512, 512), st.sampled_from([0.5, 2.0, 4.0]))
def test_shifts_do_not_change_when_both_move_and_grow(
    boxes: Tensor, anchors: Tensor, x: int, y: int, factor: float
) -> None:
    coder = ShiftCoder((10.0, 10.0, 5.0, 5.0), conventions="papers")
    moved = torch.tensor([x, y, x, y], dtype=torch.float32)
    before = coder.encode(boxes, anchors)
    torch.testing.assert_close(coder.encode(boxes * factor, anchors * factor), before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(coder.encode(boxes + moved, anchors + moved), before, rtol=1e-2, atol=5e-2)


@EXAMPLES
@given(some_boxes(2), st.lists(st.floats(-10, 10, width=32), min_size=24, max_size=24), conventions)
def test_boxes_of_several_classes_are_those_of_each_class(
    anchors: Tensor, shifts: list[float], conventions: Convention
) -> None:
    coder = ShiftCoder((10.0, 10.0, 5.0, 5.0), conventions=conventions)
    three = torch.tensor(shifts).view(2, 12)
    each = [coder.decode(three[:, 4 * at : 4 * at + 4], anchors) for at in range(3)]
    torch.testing.assert_close(coder.decode(three, anchors), torch.cat(each, 1), rtol=0, atol=0)


@pytest.mark.parametrize("conventions", ["papers", "torchvision"])
def test_no_boxes(conventions: Convention) -> None:
    coder = ShiftCoder((1.0, 1.0, 1.0, 1.0), conventions=conventions)
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert coder.decode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
