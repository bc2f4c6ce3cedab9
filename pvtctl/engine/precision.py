"""Number format and memory layout, chosen by what the device does well."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

PrecisionName = Literal["fp32", "bf16", "fp16"]
_WORTH_IT = 1.3
"""How much faster bf16 must be before it is chosen: it costs some accuracy, and a model is not all matmuls."""


@dataclass(frozen=True)
class Precision:
    """The format of matmuls and convolutions under autocast; weights and their updates always stay fp32."""

    name: PrecisionName
    why: str

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16 if self.name == "bf16" else torch.float16)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """Loss scaling, which fp16 alone needs."""
        return torch.amp.GradScaler(device.type) if self.name == "fp16" else None

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def choose_precision(wanted: Literal["auto"] | PrecisionName, device: torch.device) -> Precision:
    """The precision asked for, or the one that suits the device.

    CUDA: bf16 where the hardware has it, fp16 on older cards. CPU: a small MLP is trained for a moment in fp32 and
    bf16; bf16 is between twice as fast and a hundred times slower, depending on the processor. Elsewhere fp32.
    """
    if wanted != "auto":
        return Precision(wanted, "as asked")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "this GPU computes it natively")
        return Precision("fp16", "this GPU has no native bf16")
    if device.type != "cpu":
        return Precision("fp32", f"the safe choice on {device.type}")
    gain = cpu_bf16_gain()
    if gain >= _WORTH_IT:
        return Precision("bf16", f"measured {gain:.1f}x as fast as fp32 on this CPU")
    return Precision("fp32", f"bf16 measured {gain:.2g}x as fast on this CPU")


@functools.cache
def cpu_bf16_gain() -> float:
    """How many times faster than fp32 this CPU trains a small MLP under bf16 autocast (below 1: slower).

    Takes about a third of a second. A first look at one small product keeps CPUs that emulate bf16 from taking long.
    """
    small = torch.ones(256, 256)
    if _seconds(lambda: small @ small) * 4 < _seconds(lambda: small.bfloat16() @ small.bfloat16()):
        return 0.25
    with torch.random.fork_rng(devices=[]):  # its starting weights must not move the caller's random numbers
        mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
    tokens = torch.ones(2048, 384)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = mlp(tokens).square().mean()
        loss.backward()

    return _seconds(lambda: step(False)) / _seconds(lambda: step(True))


def _seconds(call: Callable[[], object]) -> float:
    """Processor time of the fastest of three calls, after one to warm up; the clock on the wall would also count what
    other processes take.
    """
    call()
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def wants_channels_last(model: nn.Module) -> bool:
    """Whether most weights lie in convolutions, which then run faster with channels last; token models gain nothing."""
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return convolutions > 0.5 * sum(p.numel() for p in model.parameters())
