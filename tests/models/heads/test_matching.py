"""Assignments worked by hand after mmdetection's MaxIoUAssigner."""

from __future__ import annotations

import torch

from pvtctl.models.heads.boxes import IGNORED, NEGATIVE, BoxMatcher, match_boxes

RETINANET = BoxMatcher(0.5, 0.4, best_from=0.0)
RPN = BoxMatcher(0.7, 0.3, best_from=0.3)
ROI = BoxMatcher(0.5, 0.5, best_from=None)


def test_thresholds() -> None:
    iou = torch.tensor([[0.9, 0.5, 0.49, 0.4, 0.39, 0.0]])
    assert RETINANET(iou).tolist() == [0, 0, IGNORED, IGNORED, NEGATIVE, NEGATIVE]
    assert ROI(iou).tolist() == [0, 0, NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE]
    assert RPN(iou).tolist() == [0, IGNORED, IGNORED, IGNORED, IGNORED, NEGATIVE]


def test_a_box_takes_all_anchors_that_tie_for_its_best() -> None:
    iou = torch.tensor([[0.2, 0.1, 0.2, 0.0]])
    assert RETINANET(iou).tolist() == [0, NEGATIVE, 0, NEGATIVE]


def test_the_anchor_gets_the_very_box_that_takes_it() -> None:
    """Anchor 0 overlaps box 0 most (0.8), but is box 1's best (0.6): it goes to box 1. torchvision would say 0."""
    iou = torch.tensor([[0.8, 0.9], [0.6, 0.1]])
    assert RETINANET(iou).tolist() == [1, 0]
    assert ROI(iou).tolist() == [0, 0]


def test_the_later_box_wins() -> None:
    iou = torch.tensor([[0.45, 0.1], [0.45, 0.2], [0.3, 0.3]])
    assert RETINANET(iou).tolist() == [2, 2]
    assert RETINANET(iou[[2, 0, 1]]).tolist() == [2, 0]


def test_rpn_leaves_boxes_with_a_poor_best() -> None:
    assert RPN(torch.tensor([[0.29, 0.1], [0.1, 0.3]])).tolist() == [NEGATIVE, 1]
    assert RPN(torch.tensor([[0.29, 0.1], [0.1, 0.2]])).tolist() == [NEGATIVE, NEGATIVE]


def test_a_box_that_nothing_overlaps_takes_nothing() -> None:
    assert RETINANET(torch.tensor([[0.0, 0.0], [0.6, 0.1]])).tolist() == [1, NEGATIVE]


def test_no_boxes_and_no_anchors() -> None:
    assert RETINANET(torch.zeros(0, 3)).tolist() == [NEGATIVE] * 3
    assert RETINANET(torch.zeros(2, 0)).tolist() == []


def test_invalid_anchors_take_no_part() -> None:
    """The box's best anchor is not valid: the next one is taken instead."""
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 30], [50, 50, 60, 60]])
    assert match_boxes(RETINANET, boxes, anchors).tolist() == [0, NEGATIVE, NEGATIVE]
    valid = torch.tensor([False, True, True])
    assert match_boxes(RETINANET, boxes, anchors, valid).tolist() == [IGNORED, 0, NEGATIVE]
    assert match_boxes(RETINANET, boxes[:0], anchors, valid).tolist() == [IGNORED, NEGATIVE, NEGATIVE]
