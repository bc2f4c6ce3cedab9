"""Linear layers and MLPs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.models.fast_cpu.choices import active
from pvtctl.models.fast_cpu.conditions import is_plain, is_plain_inference, is_unobserved
from pvtctl.models.fast_cpu.packed import forget, kept, multiply_packed, pack_matrix, packing_works
from pvtctl.models.heads.dpt import Reassemble
from pvtctl.models.layers.block import Mlp
from pvtctl.models.layers.patches import Size

SMALL_PRODUCT = 1 << 21
"""Multiply-adds below which the overhead of oneDNN's operation is more than it saves."""

SMALL_TRAINED = 1 << 26
"""The same in training, where it needs a function of its own in the backward pass."""


def linear(layer: nn.Linear, x: Tensor, *, gelu: bool = False) -> Tensor:
    """`layer` of x (..., in), with a GELU if requested; with packed weights if `layer` is (`pack`)."""
    weight, bias = layer.weight, layer.bias
    if not is_plain_inference(x, weight, bias):
        forget(layer)
        # in this order: a condition on the size would restrict an exported graph to the example's
        by_onednn = is_unobserved(x, weight, bias) and active().onednn_products and packing_works()
        by_onednn = by_onednn and x.numel() * len(weight) >= SMALL_TRAINED
        out = _Product.apply(x, weight, bias) if by_onednn else F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out
    pays = active().packed and x.numel() * len(weight) >= SMALL_PRODUCT
    packed = kept(layer, [weight], pack_matrix, weight) if pays else None
    joined = gelu and packed is not None and active().joined_gelu
    out = F.linear(x, weight, bias) if packed is None else multiply_packed(x, packed, bias, gelu=joined)
    # in place, as what was just written is still in the cache
    return torch.ops.aten.gelu_(out) if gelu and not joined else out


class _Product(torch.autograd.Function):
    """A linear layer whose results and input gradients oneDNN computes. torch's own product gives the gradient of the weight,
    for which oneDNN is no faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply_packed(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        again = torch.is_grad_enabled()  # for a second derivative, which oneDNN's operation does not have
        rows = grad.reshape(-1, len(weight))
        return (
            (grad @ weight if again else multiply_packed(grad, weight.t(), None)) if by_x else None,
            rows.t() @ x.reshape(len(rows), -1) if by_weight else None,
            rows.sum(0) if by_bias else None,
        )


class FastLinear(nn.Linear):
    """nn.Linear using `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(self, FastLinear):
            return linear(self, x)
        forget(self)
        return super().forward(x)


class FastMlp(Mlp):
    """The MLP with its GELU in place, a few thousand tokens at a time.

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
            return linear(second, linear(first, tokens, gelu=True))
        rows = tokens.flatten(0, -2)
        out = torch.empty_like(rows)
        for start in range(0, len(rows), chunk):
            out[start : start + chunk] = linear(second, linear(first, rows[start : start + chunk], gelu=True))
        return out.view_as(tokens)


class SplitReassemble(Reassemble):
    """The class token's part of the readout's product, equal for all tokens of an image, is computed once."""

    def projected(self, tokens: Tensor, first: Tensor) -> Tensor:
        assert self.read is not None
        if not is_plain(self.read, nn.Linear, FastLinear):
            return super().projected(tokens, first)
        own, beside = self.read.weight.tensor_split(2, dim=1)
        return F.gelu(F.linear(tokens, own) + F.linear(first, beside, self.read.bias))
