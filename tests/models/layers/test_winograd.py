"""Winograd's convolution gives what the plain one gives, and steps aside where it cannot."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pvtctl.models.layers import winograd as module
from pvtctl.models.layers.winograd import Conv3x3, speed_up_convs, winograd


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
        monkeypatch.setattr(module, "WORKSPACE", 1)
        assert torch.allclose(winograd(x, conv.weight, conv.bias), whole, atol=1e-6)


def test_taken_for_large_maps_in_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "winograd", lambda x, w, b: calls.append(x) or winograd(x, w, b))
    conv = Conv3x3(128, 128)
    large, small = torch.randn(1, 128, 32, 32), torch.randn(1, 128, 16, 16)
    conv(large).sum().backward()
    with torch.inference_mode():
        conv(small)
        conv.double()(large.double())
        with torch.autocast("cpu", torch.bfloat16):
            conv.float()(large)
        assert not calls
        conv(large)
    assert len(calls) == 1


def test_speed_up_keeps_names_and_values() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), nn.Conv2d(8, 8, 3)
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    speed_up_convs(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(m) is Conv3x3 for m in (model[0], model[1][0], model[2])] == [True, False, False]
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
