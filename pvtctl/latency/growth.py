"""Time and memory of a case as computed from its shapes, to compare measurements at several sizes with."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from pvtctl.cost.counting import count
from pvtctl.cost.memory import estimate_memory
from pvtctl.latency.ceilings import Ceilings
from pvtctl.latency.measure import Case


@dataclass(frozen=True)
class Computed:
    """What a call of a case costs at least; NaN where torch's meta device cannot run the model."""

    gmacs: float
    """1e9 multiply-adds of all its images; in training three times those of the forward pass."""
    limit_ms: float
    """Their time at the speed of a product of square matrices."""
    memory_bytes: float
    """Weights and activations alive at once, in training also gradients and AdamW's two moments."""


@functools.cache
def compute(case: Case, ceilings: Ceilings) -> Computed:
    """The computed cost of `case`. Raises UsageError as `count`."""
    training = case.mode == "train"
    options: dict[str, Any] = {"num_classes": case.num_classes, "output_stride": case.output_stride}
    try:
        cost = count(case.backbone, case.size, head=case.head, **options)
        number = 4 if case.dtype == "fp32" else 2
        activations = estimate_memory(
            case.backbone, case.head, case.size, case.batch_size, training=training, bytes_per_number=number, **options
        )
    except (NotImplementedError, RuntimeError):
        return Computed(math.nan, math.nan, math.nan)
    macs = cost.macs * case.batch_size * (3 if training else 1)
    weights = 4 * (cost.params + (3 * cost.trainable_params if training else 0))
    return Computed(macs / 1e9, 1e3 * macs / ceilings.macs_per_second, weights + activations)
