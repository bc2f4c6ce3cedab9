"""Outputs of operations on the meta device, kept: torch's rules for shapes are slow, and models repeat their layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

_OUTCOMES: dict[Any, Any] = {}
"""By `_signature`: the models of a family have most of them in common."""
_MOST_OUTCOMES = 20_000


def outcome(func: Any, args: Any, kwargs: Any) -> Any:
    """Output of an operation; if it ran on such tensors before, new tensors like that output.

    What changes a tensor or gives a view of one is run: a view shares its memory.
    """
    if func.is_view or func._schema.is_mutable:
        return func(*args, **kwargs)
    key = _signature((func, args, tuple(kwargs.items())))
    if (kept := _OUTCOMES.get(key)) is None:
        kept = func(*args, **kwargs)
        if not _has_memory_of_its_own(kept, (args, kwargs)):
            return kept
        if len(_OUTCOMES) >= _MOST_OUTCOMES:
            _OUTCOMES.clear()
        _OUTCOMES[key] = kept
    return tree_map_only(Tensor, _like, kept)


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty_strided(tensor.shape, tensor.stride())


def _has_memory_of_its_own(out: Any, inputs: Any) -> bool:
    """Whether `out` has new tensors only, each as large as its memory; `_unsafe_view` is no view, but shares memory."""
    tensors = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
    storages = [each.untyped_storage() for each in tensors]
    taken = {each.untyped_storage()._cdata for each in tree_leaves(inputs) if isinstance(each, Tensor)}
    new = {each._cdata for each in storages} - taken
    whole = all(_like(x).untyped_storage().nbytes() == y.nbytes() for x, y in zip(tensors, storages, strict=True))
    return whole and len(new) == len(tensors) > 0


def _signature(value: Any) -> Any:
    """What an operation's output depends on, hashable: of tensors shape, strides, type and device."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return tuple(map(_signature, value)) if isinstance(value, list | tuple) else (type(value), value)
