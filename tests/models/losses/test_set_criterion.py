"""Matching and losses of DETR against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pvtctl.models.losses.set_criterion import match_queries, paired_iou, set_losses

NO_LABELS, NO_BOXES = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)


def certain(classes: list[int], outputs: int = 3) -> Tensor:
    """(1, 1, Q, outputs) logits that are sure of `classes`."""
    logits = torch.full((1, 1, len(classes), outputs), -20.0)
    logits[0, 0, torch.arange(len(classes)), classes] = 20.0
    return logits


def test_the_assignment_is_the_cheapest_over_all_objects() -> None:
    # Both objects lie nearest to query 1, object 0 a little nearer; taken one by one, object 1 would get the far query 0.
    boxes = torch.tensor([[0.30, 0.5, 0.2, 0.2], [0.50, 0.5, 0.2, 0.2], [0.90, 0.9, 0.1, 0.1]])[None, None]
    truth = torch.tensor([[0.48, 0.5, 0.2, 0.2], [0.56, 0.5, 0.2, 0.2]])
    logits = torch.zeros(1, 1, 3, 3)
    [[(query, found)]] = match_queries(logits, boxes, [torch.tensor([0, 0])], [truth])
    assert query.tolist() == [0, 1]
    assert found.tolist() == [0, 1]
    # a class that query 0 is sure not to be: 1 less for query 2, not enough to cross the image
    [[(query, found)]] = match_queries(certain([2, 0, 0]), boxes, [torch.tensor([0, 0])], [truth])
    assert dict(zip(query.tolist(), found.tolist(), strict=True)) == {0: 0, 1: 1}


def test_the_class_decides_between_equal_boxes() -> None:
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(1, 1, 2, 4)
    [[(query, found)]] = match_queries(
        certain([1, 0]), boxes, [torch.tensor([0, 1])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2)]
    )
    assert query.tolist() == [0, 1]
    assert found.tolist() == [1, 0]


def test_losses_by_hand() -> None:
    # one object, one query with its lower half, one query that is sure of no-object
    boxes = torch.tensor([[0.5, 0.6, 0.4, 0.2], [0.1, 0.1, 0.1, 0.1]])[None, None]
    truth = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])[None, None]
    out = set_losses(logits, boxes, [torch.tensor([1])], [truth])
    sure = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert float(out["loss_cls"]) == pytest.approx((math.log(3) + 0.1 * sure) / 1.1, rel=1e-5)
    assert float(out["loss_box"]) == pytest.approx(5 * (0.1 + 0.2), rel=1e-5)
    assert float(out["loss_giou"]) == pytest.approx(2 * (1 - 0.5), rel=1e-5)
    # an argmax of equal classes, and an IoU of one half, are not enough
    assert float(out["recall"]) == 0.0
    # all layers count, the last one alone is logged
    logits, boxes = torch.cat((logits, certain([1, 2]))), torch.cat((boxes, boxes))
    boxes[1, 0, 0] = truth[0]
    both = set_losses(logits, boxes, [torch.tensor([1])], [truth])
    assert float(both["loss_cls"]) == pytest.approx(float(out["loss_cls"]), rel=1e-5)
    assert float(both["loss_box"]) == pytest.approx(float(out["loss_box"]), rel=1e-5)
    assert float(both["recall"]) == 1.0


def test_the_order_of_images_and_objects_does_not_matter() -> None:
    torch.manual_seed(0)
    logits, boxes = torch.randn(2, 3, 5, 4), torch.rand(2, 3, 5, 4) * 0.4 + 0.3
    labels = [torch.tensor([0, 2]), NO_LABELS, torch.tensor([1, 1, 0])]
    truth = [torch.rand(len(one), 4) * 0.4 + 0.3 for one in labels]
    first = set_losses(logits, boxes, labels, truth)
    second = set_losses(
        logits.flip(1), boxes.flip(1), [one.flip(0) for one in labels[::-1]], [one.flip(0) for one in truth[::-1]]
    )
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


def test_more_objects_than_queries() -> None:
    truth = torch.rand(9, 4) * 0.5 + 0.2
    out = set_losses(torch.randn(1, 1, 4, 3), torch.rand(1, 1, 4, 4), [torch.zeros(9, dtype=torch.int64)], [truth])
    assert all(bool(value.isfinite()) for value in out.values())


def test_images_without_objects() -> None:
    logits, boxes = torch.randn(2, 2, 4, 3, requires_grad=True), torch.rand(2, 2, 4, 4, requires_grad=True)
    out = set_losses(logits, boxes, [NO_LABELS] * 2, [NO_BOXES] * 2)
    torch.autograd.backward(torch.stack([out["loss_cls"], out["loss_box"], out["loss_giou"]]).sum())
    assert float(out["loss_box"].detach()) == float(out["loss_giou"].detach()) == 0.0
    assert float(out["recall"]) == 1.0
    assert bool(logits.grad.abs().sum() > 0)  # type: ignore[union-attr]
    assert float(boxes.grad.abs().sum()) == 0.0  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_give_such_a_loss(value: float) -> None:
    logits, boxes = torch.randn(1, 1, 4, 3), torch.rand(1, 1, 4, 4)
    broken = boxes.clone()
    broken[0, 0, 2] = value
    out = set_losses(logits, broken, [torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    assert not bool(out["loss_box"].isfinite())
    logits[0, 0, 1, 0] = value
    out = set_losses(logits, boxes, [torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    assert not bool(out["loss_cls"].isfinite())


def test_generalised_iou_by_hand() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2], [0.5, 0.5, 0.0, 0.0]])
    others = torch.tensor([[0.50, 0.25, 0.5, 0.5], [0.9, 0.9, 0.2, 0.2], [0.5, 0.5, 0.0, 0.0]])
    iou, giou = paired_iou(boxes, others)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0, 0.0]))
    torch.testing.assert_close(giou, torch.tensor([1 / 3, -(1 - 0.08), 0.0]))


def test_the_loss_of_two_ranks_divides_by_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (certain([0, 2]), torch.rand(1, 1, 2, 4), [torch.tensor([0])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    alone = set_losses(*arguments)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(3))  # the other rank has three
    torch.testing.assert_close(set_losses(*arguments)["loss_box"], alone["loss_box"] / 2)


def test_losses_and_gradients_are_those_of_transformers() -> None:
    theirs = pytest.importorskip("transformers.loss.loss_for_object_detection", reason="needs the hub extra")
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 5, requires_grad=True)
    boxes = (torch.rand(2, 3, 8, 4) * 0.4 + 0.2).requires_grad_()
    labels = [torch.randint(0, 4, (number,)) for number in (3, 0, 5)]
    truth = [torch.rand(len(one), 4) * 0.4 + 0.2 for one in labels]
    out = set_losses(logits, boxes, labels, truth)
    matcher = theirs.HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = theirs.ImageLoss(matcher=matcher, num_classes=4, eos_coef=0.1, losses=["labels", "boxes"])
    objects = [{"class_labels": one, "boxes": each} for one, each in zip(labels, truth, strict=True)]
    expected = torch.zeros(3)
    for layer in range(2):
        found = criterion({"logits": logits[layer], "pred_boxes": boxes[layer]}, objects)
        expected = expected + torch.stack([found["loss_ce"], 5 * found["loss_bbox"], 2 * found["loss_giou"]])
    ours = torch.stack([out["loss_cls"], out["loss_box"], out["loss_giou"]])
    torch.testing.assert_close(ours, expected)
    gradients = torch.autograd.grad(ours.sum(), (logits, boxes))
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), (logits, boxes)))
