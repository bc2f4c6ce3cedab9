"""Where a run stands, besides its weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progressed:
    """How far a run has come: plain values that a checkpoint holds."""

    epoch: int = 0
    batch: int = 0
    """Batches of this rank that are used up in `epoch`; all of them: the epoch's evaluation is still due."""
    skipped: int = 0
    bad_in_a_row: int = 0
    rollbacks: int = 0
    passed_over: list[list[int]] = field(default_factory=list)
    """[epoch, batch] of the steps that a roll-back leaves out."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss times images since the last line of metrics.jsonl, on this rank."""
    images: int = 0
    norms: float = 0.0
    overflows: int = 0
    """Steps since the last line whose norm is not finite, as is ordinary in fp16, and so not in `norms`."""
    steps_in_line: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    lengths: dict[str, int] = field(default_factory=dict)
    """Bytes of the run's logs at the checkpoint, by file name."""
