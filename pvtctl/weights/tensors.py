"""What the tensors of a checkpoint must be before anything computes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pvtctl.errors import UsageError

MAX_DIMENSIONS = 8
_KNOWN = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


def check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that a file of weights does not have, and those larger than their file.

    A tensor whose elements share their memory (`expand`) takes no space in the file and any amount of memory once it is
    copied. Tensors that share their elements, as tied weights do, count once.

    Raises:
        UsageError: A tensor is sparse, has no data, is of a type that layers here do not compute with (such as 8-bit
            floats), or has more than MAX_DIMENSIONS dimensions; or all together are larger than the file.
    """
    places: dict[object, int] = {}
    for name, value in state.items():
        problem = _problem(value)
        if problem is None:
            place = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
            places[place] = value.numel() * value.element_size()
            if places[place] > value.untyped_storage().nbytes():
                problem = f"is larger than its data: {'x'.join(map(str, value.shape))} elements"
        if problem is not None:
            raise UsageError(
                f"{path} is refused: the tensor {name} {problem}",
                "save plain dense tensors on the CPU, 32-bit floats for example, as torch.save does for a state dict",
            )
    if sum(places.values()) > path.stat().st_size:
        raise UsageError(
            f"{path} is refused: its tensors take {sum(places.values()):,} bytes, the file {path.stat().st_size:,}",
            "save a state dict without tensors that overlap",
        )


def _problem(value: Tensor) -> str | None:
    """What makes a tensor unusable, as a predicate."""
    if value.layout != torch.strided:
        return f"is not dense ({str(value.layout).removeprefix('torch.')})"
    if value.device.type != "cpu":
        return f"has no data (device {value.device.type})"
    if value.dtype not in _KNOWN:
        kind = str(value.dtype).removeprefix("torch.")
        return f"is of the type {kind}, which pvtctl does not read" + (": quantised" if value.is_quantized else "")
    return f"has {value.ndim} dimensions" if value.ndim > MAX_DIMENSIONS else None


def nonfinite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, value in state.items() if value.is_floating_point() and not _is_finite(value)]


def nonfinite_note(names: Sequence[str]) -> str:
    """What to say of a file with such tensors; empty for none."""
    return f"NaN or infinity in {shortened(names)}" if names else ""


def shortened(names: Sequence[str]) -> str:
    """`a, b, c and 5 more`."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements; NaN is equal to NaN."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_finite(value: Tensor) -> bool:
    """A finite sum says so in one pass; one that is not may have overflowed."""
    return (value.element_size() > 1 and bool(value.sum().isfinite())) or bool(value.isfinite().all())
