"""Which numbers of a run its curves show, and what they are called. No matplotlib."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CurveLabels:
    """The numbers that `pvtctl.views.curves.draw_curves` draws, by their keys in metrics.jsonl, with their labels."""

    loss: str
    title: str
    scores: tuple[tuple[str, str], ...]
    """Of evaluations; fractions."""
    training: tuple[tuple[str, str], ...] = ()
    """Of training, beside the scores; fractions."""
