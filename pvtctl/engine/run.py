"""The folder that a run lives in: recipe, environment, status, metrics, checkpoints and best weights."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import socket
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

import pvtctl
from pvtctl.engine.checkpoint import CheckpointStore
from pvtctl.engine.distributed import Distributed
from pvtctl.engine.environment import describe_environment
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import write_text

FREE_KEYS = ("data.path", "data.workers", "train.save_minutes", "train.keep_checkpoints", "train.max_minutes")
"""Recipe keys that may change between the parts of a run: none of them changes a result."""
_DESCRIPTIONS = ("about", "title", "paper", "expect", "provenance", "module")
"""Parts of a recipe that say what it is about and change no result either."""
_NAMED = 6
"""Changed keys that an error names."""
TIMINGS = ("seconds", "images_per_s")
"""Keys of metrics.jsonl that differ between a run and its repetition."""

_WRITTEN_FIRST = {".lock", "environment.json", "recipe.yaml"}
"""What a run writes before its run.json, without which it cannot be resumed."""


class RunFolder:
    """A run's files. Open one with `RunFolder.open`; only the first rank writes.

    `run.json` status and score, `recipe.yaml` what was asked for, `environment.json` one entry for each start,
    `metrics.jsonl` one line per log interval and evaluation, `nonfinite.jsonl` batches that gave no finite loss,
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
        """Start a run in a new folder, or go on with one.

        `recipe` is the flat recipe as plain values; its `name`, `row` and `profile` go into run.json, and `notes` (data
        fingerprint ...) into environment.json. All ranks call this together.

        Raises UsageError when the folder is taken, when there is nothing to resume, when the recipe differs from the
        one that the run began with, or when another process is at work in the folder.
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
        starts = json.loads((self.path / "environment.json").read_text("utf-8")) if known else []
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
        """What run.json says; empty before the run has begun."""
        return read_info(self.path)

    @property
    def finished(self) -> bool:
        return self.info.get("status") == "finished"

    @property
    def best_weights(self) -> Path:
        return self.path / "best.safetensors"

    def record(self, **fields: Any) -> None:
        """Replace fields of run.json."""
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
        """The lines of metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []

    def length(self, file: str) -> int:
        """Bytes in one of the logs; a checkpoint remembers it."""
        path = self.path / file
        return path.stat().st_size if path.is_file() else 0

    def rewind(self, file: str, size: int) -> None:
        """Cut a log back to what it held at the checkpoint that the run goes on from."""
        if self.writes and self.length(file) > size:
            os.truncate(self.path / file, size)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers for TensorBoard, where it is installed."""
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
        """Give the folder free for others."""
        if self._tensorboard:
            self._tensorboard.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lock:
    """Keeps a second run out of a folder. The kernel lets go of it however the process ends."""

    def __init__(self, folder: Path) -> None:
        file = folder / ".lock"
        self.descriptor: int | None = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read_text("utf-8").strip() or "another process"
            self.release()
            raise UsageError(
                f"another run is at work in {folder} ({holder})", "wait until it has ended, or choose another --out"
            ) from None
        os.ftruncate(self.descriptor, 0)
        os.write(self.descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        # A loader's worker may outlive a killed run by seconds and must not hold the lock for it.
        own = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close(own()))

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def in_use(path: Path) -> bool:
    """Whether a process is at work in a run folder."""
    try:
        lock = _Lock(path)
    except UsageError:
        return True
    lock.release()
    return False


def _close(lock: _Lock | None) -> None:
    if lock is not None:
        lock.release()


def taken(path: Path) -> UsageError | None:
    """Why no run can start there: something is there already, other than what a start that died at once has left."""
    if not path.exists():
        return None
    names = {file.name for file in path.iterdir() if file.suffix != ".tmp"} if path.is_dir() else {"a file"}
    if not names or (".lock" in names and names <= _WRITTEN_FIRST):
        return None
    hint = "go on with it by --resume, or choose another --out"
    return UsageError(f"{path} exists already", hint if "run.json" in names else "choose another --out")


def read_info(path: Path | str) -> dict[str, Any]:
    """run.json of a run folder; empty where there is none. Raises ValueError when it is none of ours."""
    file = Path(path) / "run.json"
    info = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not isinstance(info, dict):
        raise ValueError(f"{file} does not hold an object")
    return info


def read_run_recipe(path: Path | str) -> dict[str, Any]:
    """The flat recipe that a run began with.

    Raises UsageError when the folder holds no run, or when the file is damaged.
    """
    file = Path(path) / "recipe.yaml"
    if not file.is_file():
        raise UsageError(f"there is no run in {path}", "give a folder that holds recipe.yaml")
    try:
        recipe: Any = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError:
        recipe = None
    if not isinstance(recipe, dict):
        raise UsageError(f"{file} is damaged", "start a new run in another --out")
    return recipe


def find_runs(
    root: Path | str, *, name: str | None = None, row: str | None = None, status: str | None = "finished"
) -> list[Path]:
    """Run folders under `root` (itself included), newest first, that match the recipe's name, its row and a status."""
    found: list[tuple[str, Path]] = []
    for file in Path(root).rglob("run.json"):
        try:
            info = read_info(file.parent)
        except ValueError:  # somebody else's file of that name
            continue
        wanted = (("name", name), ("row", row), ("status", status))
        if all(value is None or info.get(key) == value for key, value in wanted):
            found.append((info.get("finished") or info.get("started") or "", file.parent))
    return [path for _, path in sorted(found, reverse=True)]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def check_recipe(began: dict[str, Any], now: dict[str, Any], path: Path, free_keys: Sequence[str] = FREE_KEYS) -> None:
    """Raise UsageError when the flat recipe `now` would not give the run that `path` holds, which `began` with another."""
    before, after = _flat(began), _flat(now)
    changed = [
        f"{key} was {before.get(key)!r}, is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in free_keys and key.split(".")[0] not in _DESCRIPTIONS
    ]
    if changed:
        more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise UsageError(
            f"the recipe differs from the one that {path} began with: {'; '.join(changed[:_NAMED])}{more}",
            "resume with the settings it began with, or start a new run in another --out",
        )


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
