"""RetinaNet's loss over all anchors under a mask equals the one over the positive anchors alone, gradients to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pvtctl.models.heads.boxes import IGNORED, match_boxes
from pvtctl.models.heads.retinanet import RetinaNet, per_anchor
from pvtctl.models.structures import Objects

K, PADDED = 3, (64, 96)
SIZES = [(64, 96), (40, 50)]


def objects(*boxes: tuple[float, float, float, float]) -> Objects:
    return Objects(torch.tensor(boxes).view(-1, 4), torch.arange(len(boxes)) % K)


def picked_out(head: RetinaNet, raw: tuple[list[Tensor], list[Tensor]], targets: list[Objects]) -> dict[str, Tensor]:
    """The definition, with the positive anchors picked out of the rest."""
    logits, deltas = (torch.cat([per_anchor(x, w) for x in maps], 1) for maps, w in zip(raw, (K, 4), strict=True))
    grid = torch.cat(head.anchors.grids(raw[0], PADDED))
    total_cls, total_box, count, found = torch.zeros(()), torch.zeros(()), 0, 0
    for image, (size, own) in enumerate(zip(SIZES, targets, strict=True)):
        matches = match_boxes(head.matcher, own.boxes, grid, head.anchors.valid(raw[0], size))
        positive = [at for at, match in enumerate(matches.tolist()) if match >= 0]
        goal = torch.zeros_like(logits[image])
        for at in positive:
            goal[at, own.labels[matches[at]]] = 1.0
            shift = head.box_coder.encode(own.boxes[matches[at]][None], grid[at][None])[0]
            total_box = total_box + (deltas[image, at] - shift).abs().sum()
        each = sigmoid_focal_loss(logits[image], goal, alpha=0.25, gamma=2.0)
        total_cls = total_cls + each[matches != IGNORED].sum()
        count += len(positive)
        scores, classes = logits[image].sigmoid().max(1)
        right = {int(matches[at]) for at in positive if scores[at] > 0.05 and classes[at] == own.labels[matches[at]]}
        found += len(right)
    boxes = sum(map(len, targets))
    recall = torch.tensor(found / boxes if boxes else 1.0)
    return {"loss_cls": total_cls / max(count, 1), "loss_box": total_box / max(count, 1), "recall": recall}


@pytest.mark.parametrize(
    "targets",
    [
        [objects((4, 4, 40, 36), (20, 10, 60, 60)), objects((2, 3, 30, 35))],
        [objects((4, 4, 40, 36), (5, 5, 41, 37), (0, 0, 90, 64)), objects()],
        [objects(), objects()],
    ],
)
def test_the_mask_changes_nothing(targets: list[Objects]) -> None:
    torch.manual_seed(0)
    head = RetinaNet(K, in_channels=8)
    features = [torch.randn(2, 8, -(-64 // s), -(-96 // s)) for s in (8, 16, 32, 64, 128)]
    raw = tuple([x.detach().requires_grad_() for x in maps] for maps in head.raw(features))
    with torch.no_grad():
        for level in raw[0]:
            level += 3 * torch.randn(level.shape) + 4  # some scores above the threshold
    head.raw = lambda features: raw  # type: ignore[assignment,method-assign,return-value]
    leaves = [*raw[0], *raw[1]]
    losses = head.losses(features, SIZES, PADDED, targets)
    expected = picked_out(head, raw, targets)  # type: ignore[arg-type]
    assert losses["recall"] == expected["recall"]
    for name in ("loss_cls", "loss_box"):
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-5, atol=1e-6)
        got, wanted = (
            [
                torch.zeros_like(leaf) if each is None else each
                for leaf, each in zip(
                    leaves, torch.autograd.grad(total[name], leaves, retain_graph=True, allow_unused=True), strict=True
                )
            ]
            if total[name].requires_grad
            else [torch.zeros_like(leaf) for leaf in leaves]
            for total in (losses, expected)
        )
        assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))
        assert any(each.any() for each in got) == (name == "loss_cls" or any(map(len, targets)))
