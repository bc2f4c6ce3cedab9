"""The directory of fetched checkpoints. Loads without torch."""

from __future__ import annotations

from pathlib import Path

from pvtctl.io.files import user_folder
from pvtctl.weights.catalogue import Published


def cache_folder() -> Path:
    """`weights` in pvtctl's cache folder (`pvtctl.io.files.user_folder`)."""
    return user_folder("cache") / "weights"


def cached_file(entry: Published) -> Path | None:
    """The fetched file of an entry, or None."""
    path = cache_folder() / entry.file_name
    return path if path.is_file() else None
