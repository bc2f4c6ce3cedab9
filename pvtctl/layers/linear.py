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


def runs_in_one_pass(x: Tensor) -> bool:
    """True for a float32 CPU tensor outside of training, autocast, tracing, compiling and export."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and _one_pass_works()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """x (..., in), weight (out, in), bias (out,) -> (..., out), with a GELU on it if asked for."""
    if runs_in_one_pass(x):
        return torch.ops.mkldnn._linear_pointwise(
            x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""
        )
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
