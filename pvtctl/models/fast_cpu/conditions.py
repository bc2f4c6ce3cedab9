"""When a kernel of a built model may be replaced by a faster one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# not in torch 2.6; the export-safe way is right in other graphs too
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether calling `layer` runs exactly its class, one of `kinds`, and nothing else.

    False with hooks (including pruning and weight norm), parametrisations, adapters, quantised replacements and patched
    `forward`s: such a layer must be called, not bypassed by reading its weight.
    """
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) in kinds and not any(hooks) and "forward" not in layer.__dict__


def is_plain_inference(*tensors: Tensor | None) -> bool:
    """Whether no gradient is recorded, and `is_unobserved`."""
    return not torch.is_grad_enabled() and is_unobserved(*tensors)


def is_unobserved(*tensors: Tensor | None) -> bool:
    """Whether all are plain float32 CPU tensors and nothing but the backward pass observes the operations: no forward
    gradient, transform of torch.func, autocast, tracing, compiling, export or counting.
    """
    return (
        all(t is None or (type(t) in (Tensor, nn.Parameter) and t.dtype == torch.float32 and t.is_cpu) for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
