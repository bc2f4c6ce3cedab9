"""Where fetched checkpoints lie. Loads without torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pvtctl.weights.catalogue import Published


def cache_folder() -> Path:
    """`$PVTCTL_CACHE/weights`, or `weights` in the platform's cache folder for pvtctl."""
    if chosen := os.environ.get("PVTCTL_CACHE"):
        return Path(chosen).expanduser() / "weights"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/pvtctl/weights"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "pvtctl" / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvtctl" / "weights"


def cached_file(entry: Published) -> Path | None:
    """The fetched file of an entry, None when there is none."""
    path = cache_folder() / entry.file_name
    return path if path.is_file() else None
