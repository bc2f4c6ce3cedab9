"""Models built without values have the shapes of those with some; values elsewhere are set as ever."""

from __future__ import annotations

import sys

import pytest
import torch
import torch._dynamo
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


def test_tensors_of_a_module_that_torchvision_loads_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._dynamo of torch 2.6 computes with tensors when it is loaded, which may be by a model's own module."""
    with without_values():
        with monkeypatch.context() as loading:
            loading.setattr(torch._dynamo.__spec__, "_initializing", True)
            loaded = torch.ones(2).add_(1)
        assert torch.ones(2).is_meta
    assert loaded.tolist() == [2.0, 2.0]


def test_a_model_without_torchvision_loads_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes as long to load as torch itself."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    with without_values():
        build_model("pvt_tiny", "classifier")
