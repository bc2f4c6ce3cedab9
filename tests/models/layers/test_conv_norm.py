"""Convolution, norm and ReLU as one: the same numbers with the norm folded in, and folded only where nothing looks on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.layers.conv_norm import ConvNorm, SeparableConvNorm


def lively(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode, with norms that change something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, -1.5, 1.5)
            nn.init.normal_(norm.bias)
    return module.eval()


@pytest.mark.parametrize(
    ("channels", "options", "size"),
    [
        ((128, 128), {"kernel": 3}, (37, 35)),  # large enough for winograd
        ((8, 16), {"kernel": 3}, (9, 11)),
        ((8, 16), {}, (9, 11)),
        ((8, 8), {"kernel": 3, "dilation": 4, "groups": 8}, (9, 11)),
        ((8, 16), {"relu": False}, (9, 11)),
    ],
)
def test_folded_equals_one_after_the_other(
    channels: tuple[int, int], options: dict[str, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    module = lively(ConvNorm(*channels, **options))
    assert isinstance(module, ConvNorm)
    x = torch.randn(2, channels[0], *size)
    optimize_for_cpu(module)
    expected = module.bn(module.conv(x)).detach()
    if options.get("relu", True):
        expected = F.relu(expected)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected, atol=1e-4 * float(expected.std()), rtol=1e-4)
    torch.testing.assert_close(module(x), expected)  # with gradients: not folded


def test_hooks_and_others_in_place_of_the_parts_are_respected() -> None:
    module = lively(optimize_for_cpu(ConvNorm(4, 4)))
    assert isinstance(module, ConvNorm)
    x = torch.randn(1, 4, 5, 5)
    seen = []
    handle = module.bn.register_forward_hook(lambda *_: seen.append(1))
    with torch.inference_mode():
        module(x)
        assert seen == [1]
        handle.remove()
        module.bn = nn.Identity()  # type: ignore[assignment]
        torch.testing.assert_close(module(x), F.relu(module.conv(x)))


def test_statistics_move_in_training_without_gradients() -> None:
    module = optimize_for_cpu(ConvNorm(4, 4))
    with torch.no_grad():
        module(torch.randn(2, 4, 5, 5) + 3)
    assert module.bn.num_batches_tracked == 1


def test_becomes_synchronised() -> None:
    module: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(optimize_for_cpu(SeparableConvNorm(4, 6, dilation=2)))
    norms = [m for m in module.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 2
    lone = module.eval()
    with torch.inference_mode():
        assert lone(torch.randn(1, 4, 7, 5)).shape == (1, 6, 7, 5)
