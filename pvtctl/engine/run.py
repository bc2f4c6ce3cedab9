"""The run directory: recipe, environment, status, metrics, checkpoints and best weights."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import yaml

import pvtctl
from pvtctl.engine.checkpoint import CheckpointStore
from pvtctl.engine.distributed import Distributed
from pvtctl.engine.environment import describe_environment
from pvtctl.engine.run_files import (
    all_numbers,
    damaged,
    read_info,
    read_lines,
    read_run_recipe,
    read_starts,
    remove_leftovers,
)
from pvtctl.engine.settings import FitResult
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import write_text
from pvtctl.io.stop import StopNow, Stopped
from pvtctl.recipe.block import dotted

FREE_KEYS = (
    *("data.path", "data.workers", "train.save_minutes", "train.keep_checkpoints", "train.max_minutes"),
    *("eval.backend", "data.shards.cache_gb"),
)
"""Recipe keys that may change when a run is resumed, as they do not affect results."""
_DESCRIPTIONS = ("about", "title", "paper", "expect", "provenance", "module")
"""Descriptive parts of a recipe, which do not affect results either."""
_NAMED = 6
"""Number of changed keys listed in an error."""
TIMINGS = ("seconds", "images_per_s")
"""Keys of metrics.jsonl that differ between a run and its repetition."""

_WRITTEN_FIRST = {".lock", "environment.json", "recipe.yaml"}
"""Files written before run.json, without which a run cannot be resumed."""


class RunFolder:
    """Files of a run. Open it with `RunFolder.open`; only rank 0 writes.

    `run.json` status and score, `recipe.yaml` the recipe, `environment.json` one entry per start,
    `metrics.jsonl` one line per log interval and evaluation, `nonfinite.jsonl` batches with a non-finite loss,
    `checkpoints/`, `best.safetensors`.
    """

    def __init__(self, path: Path, recipe: dict[str, Any], *, writes: bool) -> None:
        self.path = path
        self.recipe = recipe
        self.writes = writes
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self._lock: _Lock | None = None
        self._tensorboard: Any = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        recipe: Mapping[str, Any],
        *,
        resume: bool = False,
        dist: Distributed,
        notes: Mapping[str, Any] | None = None,
        free_keys: Sequence[str] = FREE_KEYS,
    ) -> RunFolder:
        """Start a run in a new directory, or resume one.

        `recipe` is the flat recipe as plain values; its `name`, `row` and `profile` go into run.json, and `notes` (data
        fingerprint ...) into environment.json. All ranks must call this together.

        Raises UsageError when the directory exists already, there is nothing to resume, the recipe differs from that of
        the run's start, or another process uses the directory.
        """
        path = Path(path)
        run = cls(path, json.loads(json.dumps(recipe)), writes=dist.is_main)
        error: PvtctlError | None = None
        if dist.is_main:
            try:
                run._begin(resume, dist, dict(notes or {}), free_keys)
            except PvtctlError as caught:
                error = caught
        try:
            dist.agree(error)
        except PvtctlError:
            run.close()
            raise
        return run

    def _begin(self, resume: bool, dist: Distributed, notes: dict[str, Any], free_keys: Sequence[str]) -> None:
        known = (self.path / "run.json").is_file()
        if resume and not known:
            raise UsageError(f"there is no run in {self.path}", "leave out --resume to start one")
        if not resume and (error := taken(self.path)):
            raise error
        if resume:
            check_recipe(read_run_recipe(self.path), self.recipe, self.path, free_keys)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _Lock(self.path)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be used: {error.strerror}", "choose another --out") from error
        remove_leftovers(self.path)
        starts = read_starts(self.path)
        starts.append({"started": now(), "processes": dist.world_size, **describe_environment(dist.device), **notes})
        write_text(self.path / "environment.json", json.dumps(starts, indent=2) + "\n")
        if known:
            self.record(**({} if self.finished else {"status": "running"}))
        else:
            write_text(self.path / "recipe.yaml", yaml.safe_dump(self.recipe, sort_keys=False))
            labels = {key: self.recipe.get(key) for key in ("name", "row", "profile", "task")}
            self.record(status="running", **labels, version=pvtctl.__version__, started=now(), finished=None)

    @property
    def info(self) -> dict[str, Any]:
        """Content of run.json; empty before the run has started."""
        return read_info(self.path)

    @property
    def finished(self) -> bool:
        return self.info.get("status") == "finished"

    @property
    def result(self) -> FitResult:
        """Of a finished run. Raises UsageError if run.json is damaged."""
        result = self.info.get("result") or {}
        names = {field.name for field in fields(FitResult)}
        plain = {key: value for key, value in result.items() if key not in ("metrics", "best")}
        whole = result.keys() == names and all(isinstance(result[key], dict) for key in ("metrics", "best"))
        if not whole or not all(map(all_numbers, (plain, result["metrics"], result["best"]))):
            raise damaged(self.path / "run.json", "its result is not whole")
        return FitResult(**result)

    @property
    def best_weights(self) -> Path:
        return self.path / "best.safetensors"

    def record(self, **fields: Any) -> None:
        """Update fields of run.json."""
        if self.writes:
            write_text(self.path / "run.json", json.dumps({**self.info, **fields}, indent=2) + "\n")

    def log(self, line: Mapping[str, Any], file: str = "metrics.jsonl") -> None:
        """Append one line of JSON to metrics.jsonl, or to another file of the run."""
        if not self.writes:
            return
        try:
            with (self.path / file).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")
        except OSError as error:
            raise PvtctlError(
                f"{self.path / file} could not be written: {error.strerror}", "free some space, then add --resume"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. Raises UsageError if it is damaged."""
        return read_lines(self.path / "metrics.jsonl")

    def length(self, file: str) -> int:
        """Size of a log in bytes, which checkpoints store."""
        path = self.path / file
        return path.stat().st_size if path.is_file() else 0

    def rewind(self, file: str, size: int) -> None:
        """Truncate a log to its size at the checkpoint that the run resumes from.

        A missing one starts again. Raises UsageError if it is shorter, or damaged.
        """
        path = self.path / file
        if not self.writes or not path.exists():
            return
        if self.length(file) < size:
            raise damaged(path, "it was longer before", "copy it again, or remove it: the run continues without it")
        os.truncate(path, size)
        read_lines(path)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write values for TensorBoard, if it is installed."""
        if not self.writes:
            return
        if self._tensorboard is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._tensorboard = False
            else:
                self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Release the run directory's lock."""
        if self._tensorboard:
            self._tensorboard.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        try:
            if error is not None and self.writes and not self.finished:
                stopped = isinstance(error, KeyboardInterrupt | StopNow | Stopped)
                reason = str(error) or type(error).__name__
                with suppress(PvtctlError):  # a full disk, so that the first error is reported
                    self.record(status="stopped" if stopped else "failed", reason=reason)
        finally:
            self.close()


class _Lock:
    """Lock of a run directory. The kernel releases it however the process ends."""

    def __init__(self, folder: Path) -> None:
        file = folder / ".lock"
        self.descriptor: int | None = _open_lock(file)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read_text("utf-8").strip() or "another process"
            self.release()
            raise UsageError(
                f"another run is at work in {folder} ({holder})", "wait until it has ended, or choose another --out"
            ) from None
        with suppress(OSError):  # a colleague's file that this user may only read: who holds it is not said then
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        # A loader worker may outlive a killed run by seconds and must not keep the lock.
        own = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: lock.release() if (lock := own()) is not None else None)

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _open_lock(file: Path) -> int:
    """For all whom the umask lets in; a lock needs no right to write its file."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(file, os.O_RDONLY)


def in_use(path: Path) -> bool:
    """Whether a process is using a run directory."""
    try:
        lock = _Lock(path)
    except UsageError:
        return True
    lock.release()
    return False


def taken(path: Path) -> UsageError | None:
    """The error if no run can start there: the path exists, with more than the files of a start that failed at once."""
    if not path.exists():
        return None
    names = {file.name for file in path.iterdir() if file.suffix != ".tmp"} if path.is_dir() else {"a file"}
    if not names or (".lock" in names and names <= _WRITTEN_FIRST):
        return None
    hint = "continue it with --resume, or choose another --out"
    return UsageError(f"{path} exists already", hint if "run.json" in names else "choose another --out")


def check_recipe(began: dict[str, Any], now: dict[str, Any], path: Path, free_keys: Sequence[str] = FREE_KEYS) -> None:
    """Raise UsageError if the flat recipes `began` (of the run in `path`) and `now` differ in keys that affect results."""
    before, after = dotted(began), dotted(now)
    changed = [
        f"{key} was {before.get(key)!r}, is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in free_keys and key.split(".")[0] not in _DESCRIPTIONS
    ]
    if changed:
        more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise UsageError(
            f"the recipe differs from the one that {path} began with: {'; '.join(changed[:_NAMED])}{more}",
            f"resume with the settings it began with, or start a new run from its weights: --weights {path} --out OTHER",
        )


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
