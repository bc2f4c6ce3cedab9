"""A fresh depth head can learn: its last ReLU lets something through, whatever the seed."""

from __future__ import annotations

import pytest
import torch

from pvtctl.models.dense import build_depth_model
from pvtctl.models.heads.midas import WIDTH, DepthOutput


@pytest.mark.parametrize("seed", range(20))
def test_every_fresh_output_has_a_slope_at_every_pixel(seed: int) -> None:
    torch.manual_seed(seed)
    output = DepthOutput(align_corners=True)
    out = output(torch.randn(1, WIDTH, 6, 8))
    assert out.shape == (1, 1, 12, 16)
    assert bool((out > 0).all())
    out.sum().backward()
    assert all(bool(p.grad.any()) for p in output.parameters() if p.grad is not None)


@pytest.mark.parametrize("seed", [3, 4, 5, 7])  # torch's own starting values leave these at 0 everywhere
def test_a_fresh_dpt_answers(seed: int) -> None:
    torch.manual_seed(seed)
    model = build_depth_model("deit_tiny_patch16", "dpt").eval()
    with torch.inference_mode():
        assert bool((model(torch.randn(1, 3, 64, 64)) > 0).all())
