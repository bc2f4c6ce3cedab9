"""What a machine can do at most: products of matrices, and traffic to memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CALLS = 5
"""Timed calls of each size, the fastest of which counts."""
COPIED_BYTES = 128 << 20
"""Of each of the two buffers that are copied: more than a processor's caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """The limits between which a model runs, measured on one device in one number format."""

    macs_per_second: float
    """Of a product of square matrices: half of `matmul_gflops`."""
    bytes_per_second: float
    """Of a copy that fits no cache: `copy_gb_s`."""


def measure_ceilings(device: str, dtype: str = "fp32", *, threads: int | None = None) -> Ceilings:
    """Measure both in about a second. `dtype` is fp32, bf16 or fp16; `threads`: of the CPU, unset torch's."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    place = torch.device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return Ceilings(1e9 / 2 * matmul_gflops(place, kind), 1e9 * copy_gb_s(place))
    finally:
        torch.set_num_threads(before)


def matmul_gflops(device: Any, kind: Any, budget_s: float = 0.15) -> float:
    """Speed of a square matrix product, in 1e9 floating point operations (2 a multiply-add) per second.

    Sizes double until one product takes `budget_s`, so that emulated formats do not take long.
    """
    import torch

    best, size = 0.0, 256
    while size <= (8192 if device.type == "cuda" else 2048):
        a = torch.ones(size, size, device=device, dtype=kind)
        seconds = _shortest(functools.partial(torch.mm, a, a), device)
        best = max(best, 2 * size**3 / seconds / 1e9)
        if seconds * 8 > budget_s:
            break
        size *= 2
    return best


def copy_gb_s(device: Any, size: int = COPIED_BYTES) -> float:
    """Speed of copying `size` bytes within the device's memory, in 1e9 bytes read or written per second, as STREAM counts
    its copy (McCalpin 1995): what a processor also reads, to write into a cache line, is not counted.
    """
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _shortest(lambda: target.copy_(source), device) / 1e9


def _shortest(call: Callable[[], object], device: Any) -> float:
    """Seconds of the fastest of CALLS calls, after one that is not timed."""
    import torch

    best = float("inf")
    for timed in range(CALLS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if timed:
            best = min(best, time.perf_counter() - start)
    return best
