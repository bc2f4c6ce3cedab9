"""Skipped samples and fingerprints, shared by the splits of all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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


class Fingerprinted(Protocol):
    """A split with a hash of its content."""

    def fingerprint(self) -> str:
        """Hash of names, sizes, ground truth and classes: equal for equal data; reads no image."""


def fingerprint(dataset: Fingerprinted) -> str:
    """Hash of a split's content, about 16 digits: equal for equal data."""
    return dataset.fingerprint()
