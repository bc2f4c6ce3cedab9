"""Skipped samples, shared by the splits of all tasks."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SUBSTITUTES = 64
"""This many unreadable images in a row end a run: then the data set is broken, not a file."""


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Unusable:
    """Stands for a sample for which nothing could be read."""

    skipped: tuple[Skipped, ...]


def reason(error: Exception) -> str:
    """One-line reason why a file could not be used."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
