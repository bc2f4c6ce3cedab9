"""The parts of a model with the time, arithmetic and memory traffic of each. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pvtctl.latency.ceilings import Ceilings


@dataclass(frozen=True)
class TimedLayer:
    """One part of a model, or all its parts of one name: `backbone.stages.0.blocks.0-2.attn` are three.

    Times are in milliseconds per call of the model, over all calls of the part in it.
    """

    name: str
    calls: int
    """How often the part runs in one call of the model."""
    rest: bool
    """Only what runs in the module itself, outside of the parts in it that have rows of their own."""
    macs: int
    """Multiply-adds in one call of the model, as `pvtctl flops` counts them (`ops`)."""
    bytes: int
    """Inputs and weights read and outputs written, each once per call of the part; of a rest, by each of its operations."""
    p50_ms: float
    p10_ms: float
    p90_ms: float

    @property
    def macs_per_second(self) -> float:
        return 1e3 * self.macs / self.p50_ms if self.p50_ms else 0.0

    @property
    def bytes_per_second(self) -> float:
        return 1e3 * self.bytes / self.p50_ms if self.p50_ms else 0.0

    @property
    def intensity(self) -> float | None:
        """Multiply-adds per byte; None for a part that moves none."""
        return self.macs / self.bytes if self.bytes else None

    def limit_ms(self, ceilings: Ceilings) -> float:
        """The time of its arithmetic or of its traffic, whichever is longer, at the ceilings' rates."""
        return 1e3 * max(self.macs / ceilings.macs_per_second, self.bytes / ceilings.bytes_per_second)


def timed_layers(found: Sequence[Mapping[str, Any]], seconds: Mapping[str, Sequence[float]]) -> tuple[TimedLayer, ...]:
    """Layers of what `LayerTrace` has `found`, with the seconds of each of its timed calls."""
    return tuple(TimedLayer(**row, **_spread(seconds[row["name"]])) for row in found)


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    milliseconds = [1e3 * each for each in seconds]
    tenths = statistics.quantiles(milliseconds, n=10, method="inclusive") if len(seconds) > 1 else milliseconds * 9
    return {"p10_ms": tenths[0], "p50_ms": statistics.median(milliseconds), "p90_ms": tenths[8]}
