"""Checkpoints of a run, with its progress: written atomically, and loaded from the newest intact one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pvtctl.io.files import atomic_path, sha256_of, write_text


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


class CheckpointStore:
    """`step-XXXXXXXX.pt` files in one folder, of which the newest `keep` are kept, each with a file of its SHA-256.

    A state holds tensors and plain values only, so that loading it never runs code (`weights_only=True`).
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, state: dict[str, Any], step: int) -> Path:
        """Write the state of `step` and drop the oldest files.

        Raises PvtctlError on a full disk; earlier checkpoints are then untouched.
        """
        path = self.folder / f"step-{step:08d}.pt"
        _hash_file(path).unlink(missing_ok=True)  # of a file of that name which is replaced, as after a roll-back
        with atomic_path(path) as temporary:
            digest = _write(state, temporary)
        write_text(_hash_file(path), f"{digest}  {path.name}\n")
        for old in self.files()[self.keep :]:
            old.unlink(missing_ok=True)
            _hash_file(old).unlink(missing_ok=True)
        return path

    def newest(self, say: Callable[[str], None]) -> Path | None:
        """The newest intact file; damaged ones are reported through `say` and skipped."""
        for path in self.files():
            if is_intact(path):
                return path
            say(f"checkpoint {path.name} is damaged; going back to the one before it")
        return None

    def set_aside_after(self, path: Path | None) -> None:
        """Rename files newer than `path` to `*.damaged`, so that they do not count among the `keep` files.

        They are not removed: a failed read may be temporary.
        """
        for other in self.files():
            if path is None or other > path:
                other.replace(other.with_suffix(".damaged"))
                _hash_file(other).unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file, on the CPU."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def is_intact(path: Path) -> bool:
    """Whether the file is as it was written: its hash says so; without one (before 0.3) it is read completely."""
    try:
        with suppress(FileNotFoundError):
            return sha256_of(path) == _hash_file(path).read_text("ascii").split()[0]
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        load_state(path)
    except Exception:  # what damaged bytes lead to is not to be foreseen
        return False
    return True


def _hash_file(path: Path) -> Path:
    """In the format of `sha256sum --check`."""
    return path.with_suffix(".sha256")


class _Watched:
    """A file that hashes what is written to it, and keeps the error of a failed write: torch's writer replaces any, also
    a KeyboardInterrupt, by a RuntimeError."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.flush = handle, handle.flush
        self.digest = hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            self.digest.update(data)
            return self.handle.write(data)
        except BaseException as error:
            self.error = self.error or error
            raise


def _write(state: dict[str, Any], path: Path) -> str:
    """Write the file; returns its SHA-256."""
    with path.open("wb") as handle:
        watched = _Watched(handle)
        try:
            torch.save(state, watched)  # type: ignore[arg-type]
        except RuntimeError as error:
            if watched.error is not None:
                raise watched.error from error
            raise
    return watched.digest.hexdigest()
