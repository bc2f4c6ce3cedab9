"""Choice of precision and memory layout for the device."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from pvtctl.errors import UsageError
from pvtctl.io.machine import BF16_FLAGS, cpu_flags

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
_WORTH_IT = 1.3
"""Minimum speed-up for choosing bf16: it costs some accuracy, and a model is not all matmuls."""


@dataclass(frozen=True)
class Precision:
    """Precision of matmuls and convolutions; weights and optimiser updates are always fp32.

    bf16 and fp16 work under autocast. fp32 is exact fp32 on GPUs too, as is what autocast leaves in fp32: boxes and
    losses. tf32 lets a GPU round the factors of products and convolutions to TF32, ten bits of mantissa.
    """

    name: PrecisionName
    why: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.name in ("fp32", "tf32"):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16 if self.name == "bf16" else torch.float16)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """Gradient scaler, needed for fp16 only."""
        return torch.amp.GradScaler(device.type) if self.name == "fp16" else None

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def choose_precision(wanted: Literal["auto"] | PrecisionName, device: torch.device) -> Precision:
    """The requested precision, or with `auto` the one that suits the device.

    CUDA: bf16 where the hardware supports it, fp16 on older cards. CPU: fp32 where the processor has no instructions for
    bf16, else chosen by briefly training a small MLP in fp32 and bf16; bf16 is between twice as fast and a hundred times
    slower, depending on the processor. Elsewhere fp32.

    Raises UsageError for tf32 elsewhere than on CUDA.
    """
    if wanted == "tf32" and device.type != "cuda":
        raise UsageError(f"TF32 is a format of NVIDIA GPUs, and this is {device.type}", "use fp32, bf16 or auto")
    if wanted != "auto":
        return Precision(wanted, "as asked")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes it natively")
        return Precision("fp16", "this GPU has no native bf16")
    if device.type != "cpu":
        return Precision("fp32", f"the safe choice on {device.type}")
    if not _may_have_bf16():
        return Precision("fp32", "this CPU has no instructions for bf16")
    gain = cpu_bf16_gain()
    if gain >= _WORTH_IT:
        return Precision("bf16", f"measured {gain:.1f}x as fast as fp32 on this CPU")
    return Precision("fp32", f"bf16 measured {gain:.2g}x as fast on this CPU")


def scoring_precision(trained: Literal["auto"] | PrecisionName, device: torch.device) -> Precision:
    """The precision in which weights are scored that were trained in `trained`: the same, but fp32 for bf16 and fp16 on a CPU
    that has no instructions for bf16 and would only emulate them. Raises UsageError as `choose_precision`."""
    if trained in ("bf16", "fp16") and device.type == "cpu" and not _may_have_bf16():
        return Precision("fp32", f"this CPU has no instructions for {trained}")
    return choose_precision(trained, device)


def _may_have_bf16() -> bool:
    flags = cpu_flags()
    return not flags or bool(flags & BF16_FLAGS)


@functools.cache
def cpu_bf16_gain() -> float:
    """Speed-up of training a small MLP on this CPU under bf16 autocast over fp32 (below 1: slower).

    Takes about a third of a second. One small product is timed first, so that CPUs that emulate bf16 do not take long.
    """
    small = torch.ones(256, 256)
    if _seconds(lambda: small @ small) * 4 < _seconds(lambda: small.bfloat16() @ small.bfloat16()):
        return 0.25
    with torch.random.fork_rng(devices=[]):  # initialising the MLP must not change the caller's random state
        mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
    tokens = torch.ones(2048, 384)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = mlp(tokens).square().mean()
        loss.backward()

    return _seconds(lambda: step(False)) / _seconds(lambda: step(True))


def _seconds(call: Callable[[], object]) -> float:
    """CPU time of the fastest of three calls after a warm-up; wall time would include other processes."""
    call()
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def wants_channels_last(model: nn.Module, device: torch.device, precision: Precision) -> bool:
    """Whether convolutions run faster with channels last.

    On CUDA in all but fp32: tensor cores work in that layout, others are converted at every call. Elsewhere where most
    weights are in convolutions; token models gain nothing.
    """
    if device.type == "cuda":
        return precision.name != "fp32"
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return convolutions > 0.5 * sum(p.numel() for p in model.parameters())
