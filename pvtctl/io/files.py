"""Write files so that a crash or a full disk never damages existing ones; lock them between processes."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

try:
    import fcntl
except ImportError:  # Windows: no locks; there an open file cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

from pvtctl.errors import PvtctlError, UsageError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` on success, remove it otherwise.

    Raises PvtctlError if the disk is full or the folder cannot be written; `path` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if not _concerns(error, path, temporary):
            raise
        raise _disk_error(path, error) from error
    finally:
        with suppress(OSError):  # a read-only disk refuses even this
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `root`; rename it to `root` on success, remove it otherwise.

    Raises UsageError if `root` is a file or not empty, PvtctlError if it cannot be written; other files that cannot be
    read in the block raise as they do elsewhere.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        what = "is not empty" if root.is_dir() else "is a file"
        raise UsageError(f"{root} {what}", "name a new folder; nothing is ever overwritten")
    target = root.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(target)
    except OSError as error:
        if not _concerns(error, target, temporary):
            raise
        reason = error.strerror or str(error)
        raise PvtctlError(
            f"{root} could not be written: {reason}", "free some space or name another folder; nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_place(folder: Path, option: str = "--out") -> None:
    """Raise UsageError if `folder` cannot be created or written; call it before hours of training."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{folder} cannot be written: {there} is a file", f"choose another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{folder} cannot be written: no rights to write in {there}", f"choose another {option}")


def require_picture(file: Path, endings: tuple[str, ...], option: str) -> None:
    """Raise UsageError if `file` is not the name of a picture, or cannot be written; call it before what is drawn."""
    if file.suffix.lower() not in endings:
        raise UsageError(f"{file} is not a picture's name", f"end it in {' or '.join(endings)}")
    if file.is_dir():
        raise UsageError(f"{file} is a folder", f"name a file: {option} NAME{endings[0]}")
    require_place(file.parent, option)


def _named(error: OSError) -> Path:
    """The file that an error names; an empty path if none, as in errors of writing."""
    return Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else Path()


def _concerns(error: OSError, target: Path, temporary: Path) -> bool:
    """Whether an error is one of writing `target`: not if it names another file, which was read meanwhile."""
    named, target, temporary = _named(error).absolute(), target.absolute(), temporary.absolute()
    below = temporary in (named, *named.parents)
    return _named(error) == Path() or below or named in (target, *target.parents)


def _disk_error(path: Path, error: OSError) -> PvtctlError:
    if error.errno in _FULL:
        return PvtctlError(f"the disk is full: {path} was not written", "free some space; what was there is untouched")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PvtctlError(f"no permission to write {path}", "choose another folder")
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return UsageError(f"{path} could not be written: {error.strerror}", "move what is there away")
    return PvtctlError(f"{path} could not be written: {error.strerror or error}", "choose another folder")


_FULL = (errno.ENOSPC, errno.EDQUOT)
_RIGHTS = "its owner can give the right to read or write it; `ls -ld` shows whose it is"
_REFUSALS = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "this disk cannot be written: choose a place on another one",
    errno.ENAMETOOLONG: "is this a path?",
    errno.ELOOP: "its links lead to one another",
    errno.ENOENT: None,
    errno.ENOTDIR: None,
    errno.EISDIR: None,
    errno.EEXIST: None,
}
"""What the operating system refuses for good, with the hint."""
_FAILURES = {
    errno.EIO: "the disk or its connection is faulty",
    errno.ESTALE: "the file was replaced while it was read; run the command again",
    errno.EMFILE: "too many files are open: `ulimit -n` shows and sets the limit",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "fewer or smaller images at a time, or a smaller model, need less",
    errno.EAGAIN: "too many processes: `ulimit -u` shows and sets the limit",
}
"""What may succeed another time."""


def os_refusal(error: OSError) -> PvtctlError | None:
    """An `OSError` as an error for the user, `FILE: Permission denied`; None for one that only a bug explains."""
    name = None if _named(error) == Path() else str(_named(error))
    where = "" if name is None else f"{name}: "
    if error.errno in _FULL:
        return PvtctlError(f"{where}the disk is full", "free some space and run the command again")
    if error.errno in _FAILURES:
        return PvtctlError(f"{where}{error.strerror}", _FAILURES[error.errno])
    if name is not None and error.errno in _REFUSALS:
        return UsageError(f"{where}{error.strerror}", _REFUSALS[error.errno])
    return None


def write_text(path: Path | str, text: str) -> None:
    """Replace `path` by `text` in one step: UTF-8, with escapes for names in it that are not."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def sha256_of(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def user_folder(kind: Literal["cache", "state"]) -> Path:
    """The user's folder for downloaded files (`cache`) or for what is kept between commands (`state`).

    `$PVTCTL_CACHE` or `$PVTCTL_STATE`, else the platform's usual place.
    """
    if chosen := os.environ.get(f"PVTCTL_{kind.upper()}"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / {"cache": "Caches", "state": "Application Support"}[kind] / "pvtctl"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "pvtctl"
    usual = {"cache": ".cache", "state": ".local/state"}[kind]
    return Path(os.environ.get(f"XDG_{kind.upper()}_HOME") or Path.home() / usual) / "pvtctl"


def without_nan(value: Any) -> Any:
    """The value as JSON types, for strict JSON: NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def locked(path: Path, *, wait: bool = True, create: bool = True) -> Iterator[bool]:
    """Hold the lock of a file; without `wait`, False if another process or thread has it. It ends with the process."""
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        mine = True
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                mine = False
        yield mine
    finally:
        os.close(handle)


def share(descriptor: int) -> None:
    """Take a lock of an open file that others can share, until it is closed; waits while `locked` holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
