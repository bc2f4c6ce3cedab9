"""Keys and labels of a run's curves. Does not import matplotlib."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CurveLabels:
    """Labels of the values drawn by `pvtctl.views.curves.draw_curves`, by key in metrics.jsonl."""

    loss: str
    title: str
    scores: tuple[tuple[str, str], ...]
    """Scores of evaluations, as fractions."""
    training: tuple[tuple[str, str], ...] = ()
    """Scores of training, drawn with those of evaluations, as fractions."""
