"""What the splits of all tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MAX_SUBSTITUTES = 64
"""So many unreadable images in a row end a run: the data is broken then, not a file."""


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Unusable:
    """In place of a sample: nothing could be read."""

    skipped: tuple[Skipped, ...]


def reason(error: Exception) -> str:
    """Why a file could not be used, in a line."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


class Fingerprinted(Protocol):
    """A split that can say what it holds."""

    def fingerprint(self) -> str:
        """Hash of the names, sizes, truth and classes: equal for equal data, cheap to make (reads no image)."""


def fingerprint(dataset: Fingerprinted) -> str:
    """Hash of what a split holds, in 16 digits or so: equal for equal data."""
    return dataset.fingerprint()
