"""Properties of `BoxMatcher`: it equals a slow, literal version of mmdetection's MaxIoUAssigner on any IoU matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvtctl.models.heads.boxes import IGNORED, NEGATIVE, BoxMatcher, match_boxes

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

SETTINGS = {
    "retinanet": (0.5, 0.4, 0.0),
    "rpn": (0.7, 0.3, 0.3),
    "roi": (0.5, 0.5, None),
    "roi sampler": (0.5, 0.5, 0.5),
}
matchers = pytest.mark.parametrize("name", SETTINGS)


def matcher_of(name: str) -> BoxMatcher:
    high, low, best_from = SETTINGS[name]
    return BoxMatcher(high, low, best_from=best_from)


@st.composite
def overlaps(draw: st.DrawFn) -> Tensor:
    """(M, N) of tenths and twentieths, so that ties and exact thresholds occur often."""
    boxes, anchors = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    values = draw(st.lists(st.integers(0, 20), min_size=boxes * anchors, max_size=boxes * anchors))
    return (torch.tensor(values, dtype=torch.float32) / 20).view(boxes, anchors)


def literal(iou: Tensor, high: float, low: float, best_from: float | None) -> list[int]:
    """MaxIoUAssigner step by step: thresholds first, then each box in turn takes the anchors that tie for its best."""
    result = []
    for column in iou.T.tolist():
        best = max(column)
        result.append(column.index(best) if best >= high else NEGATIVE if best < low else IGNORED)
    if best_from is not None:
        for box, row in enumerate(iou.tolist()):
            if max(row) >= best_from and max(row) > 0:
                result = [box if value == max(row) else old for value, old in zip(row, result, strict=True)]
    return result


@matchers
@EXAMPLES
@given(iou=overlaps())
def test_equals_the_literal_version(name: str, iou: Tensor) -> None:
    high, low, best_from = (torch.tensor(value or 0.0).item() for value in SETTINGS[name])  # thresholds in float32
    expected = literal(iou, high, low, None if SETTINGS[name][2] is None else best_from)
    assert matcher_of(name)(iou).tolist() == expected


@matchers
@EXAMPLES
@given(iou=overlaps(), data=st.data())
def test_order_of_anchors_does_not_matter(name: str, iou: Tensor, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(iou.shape[1]))))
    matcher = matcher_of(name)
    assert matcher(iou[:, order]).tolist() == matcher(iou)[order].tolist()


@st.composite
def boxes(draw: st.DrawFn, most: int) -> Tensor:
    """float32 (0 to most, 4), xyxy, on a coarse grid."""
    cell, side = st.integers(0, 6), st.integers(1, 4)
    rows = draw(st.lists(st.tuples(cell, cell, side, side), max_size=most))
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rows], dtype=torch.float32).view(-1, 4)


@matchers
@EXAMPLES
@given(true=boxes(3), anchors=boxes(8), data=st.data())
def test_invalid_anchors_are_as_if_they_were_absent(
    name: str, true: Tensor, anchors: Tensor, data: st.DataObject
) -> None:
    valid = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=len(anchors), max_size=len(anchors))), dtype=torch.bool
    )
    matcher = matcher_of(name)
    matches = match_boxes(matcher, true, anchors, valid)
    assert (matches[~valid] == IGNORED).all()
    assert matches[valid].tolist() == match_boxes(matcher, true, anchors[valid]).tolist()
