"""3x3 convolutions by Winograd's filtering: the numbers of the plain convolution, and taken where that pays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.models.fast_cpu import convolutions, optimize_for_cpu
from pvtctl.models.fast_cpu.choices import Choices, before_measurement, using
from pvtctl.models.fast_cpu.convolutions import WinogradConv
from pvtctl.models.fast_cpu.packed import pack
from pvtctl.models.fast_cpu.winograd import TrainedWinograd, winograd, winograd_weight_gradient
from pvtctl.models.layers.conv_norm import ConvNorm

ALL = replace(before_measurement("AVX512"), packed=True, winograd_trained_from=128)
SIZES = [(4, 4), (5, 7), (13, 19), (32, 40), (30, 8)]


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


@pytest.mark.parametrize("size", SIZES)
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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_plain_convolution(size: tuple[int, int], batch: int, bias: bool) -> None:
    """With a ReLU in place, as heads have it; of all inputs, and of some of them; second derivatives too."""
    torch.manual_seed(0)
    leaves = {"x": torch.randn(batch, 12, *size), "weight": torch.randn(20, 12, 3, 3) / 10}
    leaves |= {"bias": torch.randn(20)} if bias else {}
    for frozen in ((), ("x",), ("weight",), ("bias",), ("x", "bias")):
        wanted = [name for name in leaves if name not in frozen]
        ours, theirs = (gradients(convolve, leaves, wanted) for convolve in (tiled, plain_in_float64))
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            torch.testing.assert_close(ours[name], expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def tiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return TrainedWinograd.apply(x, weight, bias)


def plain_in_float64(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)


def gradients(convolve: Callable[..., Tensor], leaves: dict[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
    leaves = {name: leaf.clone().requires_grad_(name in wanted) for name, leaf in leaves.items()}
    given, found = [leaves.get(name) for name in ("x", "weight", "bias")], [leaves[name] for name in wanted]
    first = torch.autograd.grad(F.relu(convolve(*given), inplace=True).pow(2).sum(), found)
    again = torch.autograd.grad(convolve(*given).pow(3).sum(), found, create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in again), found)
    return {
        f"{name} {order}": grad
        for order, grads in enumerate((first, second), 1)
        for name, grad in zip(wanted, grads, strict=True)
    }


def test_twice_the_same_bits() -> None:
    """As a resumed run needs them."""
    leaves = {"x": torch.randn(2, 64, 30, 42), "weight": torch.randn(80, 64, 3, 3), "bias": torch.randn(80)}
    first, again = (gradients(tiled, leaves, list(leaves)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_strips_join(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 30, 18)
    grad = torch.randn(2, 4, 30, 18)
    with torch.inference_mode():
        whole = winograd(x, conv.weight, conv.bias), winograd_weight_gradient(x, grad)
        monkeypatch.setattr("pvtctl.models.fast_cpu.winograd.WORKSPACE", 1)
        torch.testing.assert_close(winograd(x, conv.weight, conv.bias), whole[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(winograd_weight_gradient(x, grad), whole[1], atol=1e-3, rtol=0)  # of sums of 1,080


@pytest.mark.parametrize(("channels", "size", "taken"), [(128, 64, True), (128, 48, False), (96, 64, False)])
def test_trained_where_that_pays(channels: int, size: int, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nowhere else than in plain float32, whatever looks on."""
    calls = []
    apply = TrainedWinograd.apply
    monkeypatch.setattr(TrainedWinograd, "apply", lambda *given: calls.append(1) or apply(*given))
    conv, x = winograd_conv(channels), torch.randn(1, channels, size, size)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    checkpoint(conv, x.clone().requires_grad_(), use_reentrant=False).sum().backward()
    assert len(calls) == 3 * taken  # of the second once more in the backward pass
    with using(replace(ALL, winograd_trained_from=0)):
        conv(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        conv(x).sum().backward()
    with FlopCounterMode(display=False) as counter:
        conv(x).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 9 * channels**2 * size**2
    torch.func.grad(lambda given: conv(given).sum())(x)
    conv.double()(x.double()).sum().backward()
    with torch.no_grad():
        conv.float()(x)
    assert len(calls) == 3 * taken


def test_a_norm_behind_it_is_trained_too(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    gradient = winograd_weight_gradient
    monkeypatch.setattr(
        "pvtctl.models.fast_cpu.winograd.winograd_weight_gradient", lambda *given: calls.append(1) or gradient(*given)
    )
    torch.manual_seed(0)
    plain, x = ConvNorm(128, 128, 3), torch.randn(2, 128, 30, 32)
    fast = optimize_for_cpu(copy.deepcopy(plain))
    for module in (plain, fast):
        module(x).square().sum().backward()
    assert calls == [1]
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4 * float(theirs.grad.abs().max()))
    torch.testing.assert_close(fast.bn.running_var, plain.bn.running_var)


def test_taken_for_large_maps_in_inference(monkeypatch: pytest.MonkeyPatch, choices: Choices) -> None:
    calls = []
    monkeypatch.setattr(convolutions, "winograd", lambda x, *given: calls.append(x) or winograd(x, *given))
    conv = winograd_conv(128)
    large, small = torch.randn(1, 128, 64, 64), torch.randn(1, 128, 16, 16)
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


def test_kept_factors_pay_on_smaller_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(convolutions, "winograd", lambda x, *given: calls.append(x) or winograd(x, *given))
    conv, x = winograd_conv(128), torch.randn(1, 128, 32, 32)
    with torch.inference_mode():
        expected = conv(x)
        assert not calls
    pack(conv)
    conv(x).sum().backward()  # without kept factors again
    with torch.no_grad():
        torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-4)
    assert len(calls) == 1


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
    assert type(model[6].conv) is WinogradConv
