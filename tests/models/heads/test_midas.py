"""MiDaS' decoder: sizes, training, parameters, and one fusion worked by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pvtctl.models.dense import build_depth_model
from pvtctl.models.heads.midas import Fusion
from pvtctl.models.layers.shapes import without_values


def test_depth_of_any_size_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = build_depth_model("resnet18", "midas")
    images = torch.randn(2, 3, 50, 70)
    out = model(images)
    assert out.shape == (2, 1, 64, 96)
    assert out.min() >= 0
    assert model.at_size(out, (50, 70)).shape == (2, 1, 50, 70)
    (out - 1).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fusion_by_hand() -> None:
    """The shortcuts start behind the ReLU, nothing mixes the channels afterwards, and the resize lays corners on corners."""
    torch.manual_seed(0)
    fusion = Fusion(norm=False, mixing=False, rectified=True, coarsest=False)
    x, coarser = torch.randn(1, 256, 3, 4), torch.randn(1, 256, 3, 4)

    def unit(convs: list[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
        return x.relu() + convs[1](convs[0](x.relu()).relu())

    assert fusion.skip is not None
    convs = [[part.first[0], part.second] for part in (fusion.skip, fusion.unit)]  # type: ignore[index]
    expected = unit(convs[1], unit(convs[0], x) + coarser)
    expected = F.interpolate(expected, size=(6, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(x, coarser, (6, 8)), expected)


def test_parameters_of_table_9() -> None:
    """104.2 M, and 105.4 M with the original's idle residual unit and without ImageNet's classifier: printed 105 M."""
    with without_values():
        model = build_depth_model("resnext101_32x8d", "midas")
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert round((ours + 2 * (256 * 256 * 9 + 256)) / 1e6) == 105
