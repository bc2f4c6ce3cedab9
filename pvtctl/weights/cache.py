"""Where fetched checkpoints lie, and the record of their hashes. Loads without torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pvtctl.errors import PvtctlError
from pvtctl.files import sha256_of, write_text
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


def record_path(path: Path) -> Path:
    """The small JSON beside a fetched file that holds its address and SHA-256."""
    return path.with_name(path.name + ".json")


def recorded_sha256(path: Path) -> str | None:
    """The SHA-256 that was recorded when `path` was first fetched."""
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = record.get("sha256") if isinstance(record, dict) else None
    return digest if isinstance(digest, str) else None


def write_record(path: Path, url: str, digest: str, size: int) -> None:
    """Write the record of a first fetch."""
    record: dict[str, Any] = {"url": url, "sha256": digest, "size": size}
    write_text(record_path(path), json.dumps(record, indent=2) + "\n")


def check_hash(file: Path, *, known_as: Path, prefix: str | None) -> str:
    """The SHA-256 of `file`, after comparing it with the publisher's first digits and with the record of `known_as`.

    Raises PvtctlError when either differs.
    """
    digest = sha256_of(file)
    if prefix is not None and not digest.startswith(prefix):
        raise PvtctlError(
            f"{known_as.name} has the wrong hash: SHA-256 {digest[: len(prefix)]}..., its publisher gives {prefix}...",
            "the file is damaged or was replaced: fetch it again, from another mirror if this repeats",
        )
    recorded = recorded_sha256(known_as)
    if recorded is not None and recorded != digest:
        raise PvtctlError(
            f"{known_as.name} has the wrong hash: SHA-256 {digest[:12]}..., at the first fetch it was {recorded[:12]}...",
            f"fetch it again; if its publisher replaced it and you trust that, delete {record_path(known_as)}",
        )
    return digest
