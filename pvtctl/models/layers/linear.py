"""Linear layers that lose nothing to a CPU when no gradient is asked for.

torch's own linear copies the bias over the whole output before it multiplies, and a GELU reads and writes that output
once more; for the wide hidden layers of a PVT these passes cost as much as a third of the product. oneDNN does product,
bias and GELU in one pass. torch offers that to `torch.compile` only, through an operator without a stable name; it is used
here where it exists and proves itself once, and torch's own linear everywhere else.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

_PLAIN = (Tensor, nn.Parameter)

ROWS, AWKWARD_ROWS, LARGE_WEIGHT = 256, range(385, 1024), 1 << 19
"""Rows at a time, for a large weight and a number of rows that oneDNN may not divide well (see `_in_chunks`)."""


@functools.cache
def _one_pass_works() -> bool:
    """Whether this torch has the operator, and it computes what it should."""
    try:
        # no random numbers: this must not move the generator that the caller has seeded
        x, weight, bias = (torch.linspace(-1, 1, n).sin() for n in (5 * 24, 16 * 24, 16))
        x, weight = x.reshape(5, 24), weight.reshape(16, 24)
        with torch.inference_mode():
            out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
        return torch.allclose(out, F.gelu(F.linear(x, weight, bias)), atol=1e-4)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def runs_in_one_pass(*tensors: Tensor | None) -> bool:
    """True when all are plain float32 CPU tensors and nothing looks on: no gradient of either direction, autocast,
    tracing, compiling, export or counting, which know nothing of the operator."""
    return (
        not torch.is_grad_enabled()
        and all(t is None or (type(t) in _PLAIN and t.dtype == torch.float32 and t.is_cpu) for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and _one_pass_works()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out), with a GELU on it if asked for."""
    if runs_in_one_pass(x, weight, bias):
        rows = x.numel() // x.shape[-1]
        if rows in AWKWARD_ROWS and rows % 64 and weight.numel() >= LARGE_WEIGHT:
            return _in_chunks(x, weight, bias, gelu=gelu)
        return _one_pass(x, weight, bias, gelu=gelu)
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


def _one_pass(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def _in_chunks(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """oneDNN cuts the rows into equal blocks, and for some numbers finds none that fit: the 577 tokens of a ViT at 384
    pixels (1024 to 3072 channels) take 45 ms on a Zen 4 core, 576 take 35. In chunks it is 36, and where the whole went well
    3 % more."""
    rows = x.flatten(0, -2)
    out = x.new_empty(len(rows), len(weight))
    for start in range(0, len(rows), ROWS):
        out[start : start + ROWS] = _one_pass(rows[start : start + ROWS], weight, bias, gelu=gelu)
    return out.view(*x.shape[:-1], len(weight))


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling `layer` does what its class `kind` does and nothing else.

    Hooks (among them pruning and weight norm), parametrisations, adapters, quantised layers put in its place and patched
    `forward`s make the difference: such a layer is called, its weight is not read.
    """
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) is kind and not any(hooks) and "forward" not in layer.__dict__


def apply_linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """`layer(x)`, with a GELU on it if asked for; by way of `linear` where `layer` is a plain `nn.Linear`."""
    if isinstance(layer, nn.Linear) and is_plain(layer, nn.Linear):
        return linear(x, layer.weight, layer.bias, gelu=gelu)
    out: Tensor = layer(x)
    return F.gelu(out) if gelu else out
