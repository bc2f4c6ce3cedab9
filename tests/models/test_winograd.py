"""3x3 convolutions by Winograd's filtering: the numbers of the plain convolution, and taken where that pays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pvtctl.models.fast_cpu import convolutions, optimize_for_cpu
from pvtctl.models.fast_cpu.choices import Choices, before_measurement, using
from pvtctl.models.fast_cpu.convolutions import FastConv, WinogradConv
from pvtctl.models.fast_cpu.winograd import winograd
from pvtctl.models.layers.conv_norm import ConvNorm

ALL = replace(before_measurement("AVX512"), packed=True)


@pytest.fixture(autouse=True)
def all_kernels() -> Iterator[None]:
    with using(ALL):
        yield


@pytest.fixture(params=["all", "some"])
def choices(request: pytest.FixtureRequest) -> Iterator[Choices]:
    """All kernels, and a machine on which two of them lose."""
    chosen = ALL if request.param == "all" else replace(ALL, packed=False, winograd_from=256)
    with using(chosen):
        yield chosen


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (13, 19), (32, 40)])
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_the_plain_convolution(size: tuple[int, int], batch: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 20, 3, padding=1)
    x = torch.randn(batch, 12, *size)
    with torch.inference_mode():
        expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
        out = winograd(x, conv.weight, conv.bias)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


def test_strips_join(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 30, 18)
    with torch.inference_mode():
        whole = winograd(x, conv.weight, conv.bias)
        monkeypatch.setattr("pvtctl.models.fast_cpu.winograd.WORKSPACE", 1)
        assert torch.allclose(winograd(x, conv.weight, conv.bias), whole, atol=1e-6)


def test_taken_for_large_maps_in_inference_only(monkeypatch: pytest.MonkeyPatch, choices: Choices) -> None:
    calls = []
    monkeypatch.setattr(convolutions, "winograd", lambda x, *given: calls.append(x) or winograd(x, *given))
    conv = winograd_conv(128)
    large, small = torch.randn(1, 128, 32, 32), torch.randn(1, 128, 16, 16)
    conv(large).sum().backward()
    with torch.inference_mode():
        conv(small)
        conv.double()(large.double())
        with torch.autocast("cpu", torch.bfloat16):
            conv.float()(large)
        assert not calls
        conv(large)
    assert len(calls) == (choices.winograd_from == 128)
    with torch.inference_mode():
        winograd_conv(256)(torch.randn(1, 256, 32, 32))
    assert len(calls) == 1 + (choices.winograd_from == 128)


def winograd_conv(channels: int) -> nn.Module:
    conv = optimize_for_cpu(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)))[0]
    assert type(conv) is WinogradConv
    return conv


def test_winograd_takes_the_3x3_convolutions_of_necks_and_heads() -> None:
    other = [nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 2, 2), nn.Conv2d(8, 8, 3, 1, 1, 1, 8)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *other, nn.Conv2d(8, 8, 1), ConvNorm(8, 8, 3))
    state = torch.get_rng_state()
    optimize_for_cpu(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(module) is WinogradConv for module in model] == [True, *[False] * 6]
    assert type(model[6].conv) is FastConv
