"""Parameters and images by a formula, and records of outputs small enough to keep in the repository."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

FAINT = 0.05
"""Faint models have activations so small that the epsilon of a norm layer shows in their outputs."""
SAMPLES = 8
"""Entries of an output that are kept."""


def uniform(tag: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values in [-1, 1), equal on every machine: the position plus the CRC-32 of `tag`, mixed as MurmurHash3 does last."""
    x = np.arange(1, math.prod(shape) + 1, dtype=np.uint32)
    x *= np.uint32(0x9E3779B9)
    x += np.uint32(zlib.crc32(tag.encode()))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    x >>= np.uint32(8)  # 24 bits, which float32 holds exactly
    return (x.astype(np.float32) * np.float32(2**-23) - np.float32(1)).reshape(shape)


def parameter(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The value of a state dict's entry `key`.

    Weights have the standard deviation 1 / sqrt(inputs), so that activations keep their size; gains lie near 1.
    """
    values = uniform(f"{key} {shape}", shape)
    if key.endswith("running_var"):
        return values * np.float32(0.5) + np.float32(1)
    if is_table(shape):
        return values * np.float32(0.5)
    if len(shape) > 1:
        inputs = 1 if key.endswith("query_embed.weight") else math.prod(shape[1:])  # DETR's queries differ
        return values * np.float32(math.sqrt(3 / inputs))
    return values * np.float32(0.1) + np.float32(key.endswith("weight"))


def is_table(shape: tuple[int, ...]) -> bool:
    """Position tables and tokens, (1, N, C)."""
    return len(shape) == 3 and shape[0] == 1


@torch.no_grad()
def fill(model: Any) -> Any:
    """Give every entry of the model's state dict its value; returns the model in eval mode."""
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.from_numpy(parameter(key, tuple(value.shape))))
        else:
            value.zero_()
    return model.eval()


@torch.no_grad()
def make_faint(model: nn.Module) -> None:
    """Scale gains, biases, statistics and tables by FAINT."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and (value.ndim < 2 or is_table(tuple(value.shape))):
            value *= FAINT**2 if key.endswith("running_var") else FAINT


def image(*shape: int, faint: bool = False) -> Tensor:
    """Normalised images (B, 3, H, W) of unit variance: noise over squares of 8 x 8 pixels."""
    batch, channels, height, width = shape
    noise = uniform(f"noise {shape}", shape)
    squares = uniform(f"squares {shape}", (batch, channels, -(-height // 8), -(-width // 8)))
    coarse = squares.repeat(8, 2).repeat(8, 3)[:, :, :height, :width]
    pixels = torch.from_numpy(noise + np.float32(1.4) * coarse)
    return pixels * FAINT if faint else pixels


def layout(model: nn.Module) -> str:
    """The checkpoint's entries in their order, as a count of entries and values and a hash of names, shapes and types."""
    state = model.state_dict()
    entries = [(key, tuple(value.shape), str(value.dtype)) for key, value in state.items()]
    digest = hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
    return f"{len(entries)} entries, {sum(value.numel() for value in state.values())} values, {digest}"


def digest(*arrays: NDArray[Any]) -> str:
    """Hash of the bits of arrays."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def record(value: Any) -> Any:
    """What is kept of one output: words and whole numbers as they are, fractions to 8 digits, of an array its shape,
    mean, standard deviation and some entries."""
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return _rounded(value)
    array = np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64)
    flat = array.ravel()
    if not flat.size:
        return {"shape": list(array.shape)}
    places = [*((at * 2654435761) % flat.size for at in range(SAMPLES - 1)), flat.size - 1]
    return {
        "shape": list(array.shape),
        "mean": _rounded(flat.mean()),
        "std": _rounded(flat.std()),
        "values": [_rounded(each) for each in flat[places]],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.8g}")


def difference(expected: Any, found: Any) -> float:
    """How far two records are apart: of fractions relative to the expected one, of arrays relative to their standard
    deviation (at least a tenth of their mean); infinite where shapes, words or whole numbers differ, or a value is
    not finite."""
    if isinstance(expected, float) and isinstance(found, float):
        return _finite(abs(found - expected) / max(abs(expected), 1e-6))
    if not isinstance(expected, Mapping) or not isinstance(found, Mapping) or "std" not in expected:
        return 0.0 if expected == found else math.inf
    if expected["shape"] != found["shape"]:
        return math.inf
    pairs = [(expected[key], found[key]) for key in ("mean", "std")]
    pairs += zip(expected["values"], found["values"], strict=True)
    return _finite(max(abs(a - b) for a, b in pairs) / max(expected["std"], 0.1 * abs(expected["mean"]), 1e-6))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
