"""Linear layers and MLPs."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.conditions import is_plain, is_plain_inference
from pvtctl.models.heads.dpt import Reassemble
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.patches import Size

ROWS, AWKWARD_ROWS, LARGE_WEIGHT = 256, range(385, 1024), 1 << 19
"""Rows at a time, for a large weight and a number of rows that oneDNN may not divide well (see `_in_chunks`)."""


@functools.cache
def one_pass_works() -> bool:
    """Whether this torch has oneDNN's one-pass product, whose name is not stable, with correct results."""
    try:
        # no random numbers: this must not change the state of the caller's generator
        x, weight, bias = (torch.linspace(-1, 1, n, device="cpu").sin() for n in (5 * 24, 16 * 24, 16))
        x, weight = x.reshape(5, 24), weight.reshape(16, 24)
        with torch.inference_mode():
            out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
        return torch.allclose(out, F.gelu(F.linear(x, weight, bias)), atol=1e-4)
    except (AttributeError, RuntimeError):
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out), with a GELU if requested.

    torch's own linear copies the bias over the whole output before the product, and a GELU reads and writes that output
    again; for the wide hidden layers of a PVT these passes cost up to a third of the product. oneDNN does product, bias
    and GELU in one pass, which torch uses in `torch.compile` only.
    """
    if active().one_pass and one_pass_works() and is_plain_inference(x, weight, bias):
        rows = x.numel() // x.shape[-1]
        if rows in AWKWARD_ROWS and rows % 64 and weight.numel() >= LARGE_WEIGHT:
            return _in_chunks(x, weight, bias, gelu=gelu)
        return _one_pass(x, weight, bias, gelu=gelu)
    out = F.linear(x, weight, bias)
    if gelu and is_plain_inference(out):  # in place: what was just written is still in the cache
        return torch.ops.aten.gelu_(out)
    return F.gelu(out) if gelu else out


def _one_pass(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def _in_chunks(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """oneDNN cuts the rows into equal blocks, and for some numbers finds none that fit: the 577 tokens of a ViT at 384
    pixels (1024 to 3072 channels) take 45 ms on a Zen 4 core, 576 take 35. In chunks it is 36; where the unchunked
    product is efficient, chunks cost 3 % more.
    """
    rows = x.flatten(0, -2)
    out = x.new_empty(len(rows), len(weight))
    for start in range(0, len(rows), ROWS):
        out[start : start + ROWS] = _one_pass(rows[start : start + ROWS], weight, bias, gelu=gelu)
    return out.view(*x.shape[:-1], len(weight))


class FastLinear(nn.Linear):
    """nn.Linear using `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) if is_plain(self, FastLinear) else super().forward(x)


class FastMlp(Mlp):
    """The MLP with its GELU in the same pass or in place, a few thousand tokens at a time.

    The hidden layer of PVT's first stage is 8 times as wide as its tokens: 51 MB at batch 8 and 224, 124 MB for an
    800x1216 image. In chunks it stays in the cache, and does not add to the peak memory. Every chunk reads the weights
    again, so layers with weights larger than a chunk, as in a ViT, compute all tokens at once, as do few tokens.
    """

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        first, second = self.fc1, self.fc2
        # modified layers may use all tokens at once, or count their calls
        plain = is_plain(first, nn.Linear, FastLinear) and is_plain(second, nn.Linear, FastLinear)
        if self.dwconv is not None or not plain or not is_plain_inference(tokens, first.weight, second.weight):
            return super().forward(tokens, size)
        most, weights = active().mlp_bytes, first.weight.nbytes + second.weight.nbytes
        chunk = max(most // (first.out_features * 4), 1)
        if weights > most or tokens.numel() // first.in_features < 4 * chunk:
            hidden = linear(tokens, first.weight, first.bias, gelu=True)
            return linear(hidden, second.weight, second.bias)
        rows = tokens.flatten(0, -2)
        out = torch.empty_like(rows)
        for start in range(0, len(rows), chunk):
            hidden = linear(rows[start : start + chunk], first.weight, first.bias, gelu=True)
            out[start : start + chunk] = linear(hidden, second.weight, second.bias)
        return out.view_as(tokens)


class SplitReassemble(Reassemble):
    """The class token's part of the readout's product, equal for all tokens of an image, is computed once."""

    def projected(self, tokens: Tensor, first: Tensor) -> Tensor:
        assert self.read is not None
        if not is_plain(self.read, nn.Linear):
            return super().projected(tokens, first)
        own, beside = self.read.weight.tensor_split(2, dim=1)
        return F.gelu(F.linear(tokens, own) + F.linear(first, beside, self.read.bias))
