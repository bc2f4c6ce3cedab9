"""A GPU without a GPU: tensors that say they are on one, are computed on the CPU, and note where the host would wait for them.

`with PretendGpu() as gpu:` makes torch's meta device stand for the GPU. Tensors that are moved there or created there keep their
values. What would make the host wait for all work queued on a real GPU is in `gpu.waits`, by operation and place in pvtctl: reading
a value, results whose size depends on values (`nonzero`, a mask as index, NMS), and copies that are not `non_blocking`. An operation
that mixes tensors of both places raises, as on a real GPU.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import pvtctl

GPU, HOST = torch.device("meta"), torch.device("cpu")
PACKAGE = f"{Path(pvtctl.__file__).parent}{os.sep}"
SIZED_BY_VALUES = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nms",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
"""Operations whose result the host cannot know before the GPU has computed it."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class OnGpu(Tensor):
    """A tensor on the pretended GPU; `values` are its own, on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnGpu:
        own: OnGpu = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=GPU,
        )
        own.values = values
        return own

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a tensor of the pretended GPU, outside of it")


class PretendGpu(TorchDispatchMode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        """(operation, "folder/file.py:function" of pvtctl) -> how often."""
        self.puts_number = False
        self._calls = _Calls(self)

    def __enter__(self) -> Self:
        super().__enter__()
        self._calls.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._calls.__exit__(*error)
        super().__exit__(*error)

    def wait(self, operation: str) -> None:
        self.waits[operation, _place()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors(args)) + list(_tensors(tuple(kwargs.values())))
        on_gpu = any(isinstance(each, OnGpu) for each in tensors)
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = HOST
        name = func.overloadpacket.__name__
        there = on_gpu if target is None else torch.device(target) == GPU
        if name in ("_to_copy", "copy_"):
            self._copied(name, args, kwargs, there)
        elif on_gpu:
            self._computed(name, func, args, tensors)
        out = func(*_each(_values, args), **{key: _each(_values, value) for key, value in kwargs.items()})
        if name == "copy_" or (func._schema.is_mutable and isinstance(out, Tensor)):
            return args[0]
        return _each(_on_gpu, out) if there else out

    def _copied(self, name: str, args: Any, kwargs: Any, there: bool) -> None:
        source = args[1] if name == "copy_" else args[0]
        to_gpu = isinstance(args[0], OnGpu) if name == "copy_" else there
        if isinstance(source, OnGpu) and not to_gpu:
            self.wait("copy to the host")
        elif to_gpu and not isinstance(source, OnGpu):
            later = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if not later:
                self.wait("copy to the GPU")

    def _computed(self, name: str, func: Any, args: Any, tensors: list[Tensor]) -> None:
        if name in SIZED_BY_VALUES or (name == "repeat_interleave" and len(args) == 1):
            self.wait(name)
        if name in INDEXED:
            indices = [each for each in args[1] if each is not None]
            # a number is put where a mask says without counting what it holds
            if any(each.dtype in (torch.bool, torch.uint8) for each in indices) and not self.puts_number:
                self.wait("a mask as index")
            if any(not isinstance(each, OnGpu) for each in indices):
                self.wait("an index on the host")
            tensors = [each for each in tensors if all(each is not index for index in indices)]
        lost = [each for each in tensors if each.ndim > 0 and not isinstance(each, OnGpu)]
        if lost:
            raise RuntimeError(f"{func} of tensors on the GPU and {len(lost)} on the host, in {_place()}")


class _Calls(TorchFunctionMode):
    """Functions of torch that do not come to `PretendGpu` as operations."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == GPU:
            return func(*args, **{**kwargs, "device": None}).to(GPU)
        if func is Tensor.__setitem__ and isinstance(args[0], OnGpu):
            self.gpu.puts_number = not isinstance(args[2], Tensor)
            try:
                return func(*args, **kwargs)
            finally:
                self.gpu.puts_number = False
        if func in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], OnGpu):
            if func is Tensor.numpy:
                raise TypeError("can't convert a tensor on a GPU to numpy")
            self.gpu.wait("tolist")
            return args[0].values.tolist()
        return func(*args, **kwargs)


def _tensors(parts: Any) -> Iterator[Tensor]:
    for each in parts:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _each(change: Callable[[Any], Any], parts: Any) -> Any:
    """`change` of every tensor in lists and tuples of them, much faster than torch's `tree_map`."""
    if isinstance(parts, list | tuple):
        return type(parts)([_each(change, part) for part in parts])
    return change(parts)


def _values(each: Any) -> Any:
    return each.values if isinstance(each, OnGpu) else each


def _on_gpu(each: Any) -> Any:
    return OnGpu(each) if isinstance(each, Tensor) and not isinstance(each, OnGpu) else each


def _place() -> str:
    """The function of pvtctl that is running."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside"
