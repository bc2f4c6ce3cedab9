"""Models built without values have the shapes of those with some; values elsewhere are set as ever."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pvtctl.cost.build import build_model
from pvtctl.models.layers.shapes import without_values


@pytest.mark.parametrize(("backbone", "head"), [("pvt_v2_b0", "mask_rcnn"), ("resnet18", "detr"), ("pvt_v2_b0", "dpt")])
def test_shapes_are_those_of_the_whole_model(backbone: str, head: str) -> None:
    with without_values():
        shapes = build_model(backbone, head)
    whole = build_model(backbone, head)
    for ours, theirs in (
        (shapes.state_dict(), whole.state_dict()),
        *[(dict(m.named_parameters()) for m in (shapes, whole))],
    ):
        assert {key: (x.shape, x.stride(), x.dtype, x.requires_grad) for key, x in ours.items()} == {
            key: (x.shape, x.stride(), x.dtype, x.requires_grad) for key, x in theirs.items()
        }
    assert all(x.is_meta for x in shapes.state_dict().values())


def test_tensors_elsewhere_are_filled() -> None:
    with without_values():
        real = torch.zeros(2, 3, device="cpu")
        nn.init.constant_(real, 2.0)
        real.add_(1)
    assert real.tolist() == [[3.0] * 3] * 2
