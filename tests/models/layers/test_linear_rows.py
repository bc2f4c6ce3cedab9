"""Row counts that oneDNN divides badly go through in chunks, and come out the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pvtctl.models.layers import linear as module


@pytest.mark.parametrize("shape", [(577, 768), (1, 577, 768), (2, 300, 768), (512, 768), (1025, 768)])
@pytest.mark.parametrize("gelu", [False, True])
def test_equals_the_plain_linear(shape: tuple[int, ...], gelu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    chunks: list[int] = []
    one_pass = module._one_pass
    monkeypatch.setattr(module, "_one_pass", lambda x, *a, **k: chunks.append(len(x)) or one_pass(x, *a, **k))
    x, weight, bias = torch.randn(shape), torch.randn(768, 768) / 28, torch.randn(768)
    expected = F.linear(x.double(), weight.double(), bias.double())
    expected = F.gelu(expected) if gelu else expected
    with torch.inference_mode():
        out = module.linear(x, weight, bias, gelu=gelu)
        assert out.shape == expected.shape
        torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=0)
    if not module._one_pass_works():
        return
    rows = x.numel() // 768
    assert len(chunks) == (3 if rows in (577, 600) else 1)
