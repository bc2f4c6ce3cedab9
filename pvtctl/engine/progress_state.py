"""Progress of a run, saved in checkpoints along with the weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progressed:
    """Progress of a run, as plain values in a checkpoint."""

    epoch: int = 0
    batch: int = 0
    """Batches of `epoch` that this rank has used; if all of them, the epoch's evaluation is still due."""
    skipped: int = 0
    bad_in_a_row: int = 0
    rollbacks: int = 0
    passed_over: list[list[int]] = field(default_factory=list)
    """[epoch, batch] of the steps skipped after a roll-back."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sum of each loss times images since the last line of metrics.jsonl, on this rank."""
    images: int = 0
    norms: float = 0.0
    overflows: int = 0
    """Steps since the last line with a non-finite norm (normal in fp16), which are not in `norms`."""
    steps_in_line: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    lengths: dict[str, int] = field(default_factory=dict)
    """Size in bytes of the run's logs at the checkpoint, by file name."""
