"""The pyramid: levels, sizes, and where its coarse levels stand."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from pvtctl.models.necks.fpn import CoarseByConvolution, Fpn

CHANNELS = (8, 16, 24, 32)


def maps(height: int, width: int, channels: tuple[int, ...] = CHANNELS) -> list[Tensor]:
    return [torch.randn(1, c, max(1, height >> i), max(1, width >> i)) for i, c in enumerate(channels)]


@pytest.mark.parametrize("size", [(32, 40), (31, 45), (9, 8)])
def test_retinanet_levels_for_any_size(size: tuple[int, int]) -> None:
    inputs = maps(*size)
    out = Fpn(CHANNELS, extra="p6p7", levels=(3, 7), out_channels=12)(inputs)
    assert [tuple(x.shape[2:]) for x in out[:3]] == [tuple(x.shape[2:]) for x in inputs[1:]]
    halves = [(-(-out[2].shape[2] // 2 ** (i + 1)), -(-out[2].shape[3] // 2 ** (i + 1))) for i in range(2)]
    assert [tuple(x.shape[2:]) for x in out[3:]] == halves
    assert {x.shape[1] for x in out} == {12}


def test_mask_rcnn_levels() -> None:
    inputs = maps(31, 45)
    out = Fpn(CHANNELS, extra="pool", levels=(2, 6), out_channels=12)(inputs)
    assert [tuple(x.shape[2:]) for x in out[:4]] == [tuple(x.shape[2:]) for x in inputs]
    assert torch.equal(out[4], out[3][:, :, ::2, ::2])


def test_p6_stands_on_the_last_backbone_map_at_equal_width_too() -> None:
    fpn = Fpn(CHANNELS, extra="p6p7", levels=(3, 7), out_channels=CHANNELS[-1])
    inputs = maps(32, 32)
    out = fpn(inputs)
    p6 = fpn.extra_blocks.p6(inputs[-1])
    assert torch.equal(out[3], p6)
    assert torch.equal(out[4], fpn.extra_blocks.p7(p6))  # no ReLU between


def test_equal_to_torchvision_under_its_conventions() -> None:
    ours = Fpn(CHANNELS, extra="p6p7", levels=(3, 7), out_channels=12, conventions="torchvision")
    theirs = FeaturePyramidNetwork(list(CHANNELS[1:]), 12, LastLevelP6P7(12, 12))
    theirs.load_state_dict(ours.state_dict())
    inputs = maps(32, 40)
    expected = theirs(OrderedDict(enumerate(inputs[1:])))
    for a, b in zip(ours(inputs), expected.values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_starting_values() -> None:
    fpn = Fpn(CHANNELS, extra="p6p7", levels=(3, 7))
    for name, parameter in fpn.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
    weight = fpn.inner_blocks[0][0].weight
    bound = (6 / (16 + 256)) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_gradients_of_tiny_maps_in_bf16(size: tuple[int, int]) -> None:
    """Of images up to 64 pixels P6 is one cell: most weights of P7 meet zeros alone, and their gradient must be zero."""
    torch.manual_seed(0)
    block = CoarseByConvolution(64, 64)
    last = torch.randn(2, 64, *size)

    def gradients(bf16: bool) -> list[torch.Tensor]:
        block.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            maps, _ = block([], [last], [])
        garbage = [torch.full((64 * 64 * 9,), float("nan"), dtype=torch.bfloat16) for _ in range(64)]
        del garbage  # what new tensors may lie on
        sum(each.float().sum() for each in maps).backward()
        return [parameter.grad.clone() for parameter in block.parameters() if parameter.grad is not None]

    for own, exact in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(own, exact, rtol=0.05, atol=0.1)
