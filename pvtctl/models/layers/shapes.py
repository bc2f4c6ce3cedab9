"""Models without values, for what needs shapes only; `_FILLS` change no shape, strides or type."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = {
    *(
        getattr(Tensor, f"{name}_")
        for name in ["add", "clamp", "copy", "erfinv", "fill", "mul", "normal", "uniform", "zero"]
    ),
    *(getattr(nn.init, f"{name}_") for name in ["constant", "kaiming_uniform", "normal", "uniform"]),
}


@contextmanager
def without_values() -> Iterator[None]:
    """Build models on the meta device, where initialisers change nothing and are slow, without running them."""
    with torch.device("meta"), _NoFills():
        yield


class _NoFills(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # torchvision loads it, maybe when a model's own module is loaded in here: that of torch 2.6 computes with tensors then
        if _is_loading("torch._dynamo"):
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        filled = (args[0] if args else (kwargs or {}).get("tensor")) if func in _FILLS else None
        return filled if isinstance(filled, Tensor) and filled.is_meta else func(*args, **(kwargs or {}))


def _is_loading(module: str) -> bool:
    return bool(getattr(getattr(sys.modules.get(module), "__spec__", None), "_initializing", False))
