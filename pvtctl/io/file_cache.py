"""A folder of fetched files with a limit of bytes, for any number of processes. Loads without torch.

A file is fetched once, under another name, by the process that holds its lock; who needs it meanwhile waits. While it is
open it is locked and stays; the one that was opened longest ago goes first. Where nothing can go, because all files are
open, a file that is needed is fetched all the same, so that another run with the same folder never stops this one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import locked, share

Fetch = Callable[[Path], None]
"""Completes a file, of which the first bytes may be there."""


class FileCache:
    """Files by name, which says its content: one name, one content.

    Raises PvtctlError when the disk is full, UsageError when the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with self._disk_errors():
            folder.mkdir(parents=True, exist_ok=True)

    def open(self, name: str, size: int, fetch: Fetch) -> BinaryIO:
        """The file, fetched if it is not there; it is kept while it is open. Raises what `fetch` raises."""
        with self._disk_errors():
            while (handle := self._open(name)) is None:
                with locked(self.folder / f"{name}.lock"):
                    if not (self.folder / name).is_file():
                        self._fetch(name, size, fetch, needed=True)
            return handle

    def fetch_ahead(self, name: str, size: int, fetch: Fetch) -> bool:
        """Fetch a file for later, unless it is there, another process is at it, or no room is to be had for it.

        Returns whether it is there. Raises what `fetch` raises.
        """
        with self._disk_errors(), locked(self.folder / f"{name}.lock", wait=False) as mine:
            if mine and not (self.folder / name).is_file():
                self._fetch(name, size, fetch, needed=False)
            return (self.folder / name).is_file()

    def size(self) -> int:
        """Bytes of all files, those being fetched at their whole size."""
        return sum(size for _, _, size in self._entries())

    def _open(self, name: str) -> BinaryIO | None:
        path = self.folder / name
        try:
            handle = path.open("rb")
        except FileNotFoundError:
            return None
        share(handle.fileno())
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(handle.fileno())):  # else it was removed in between
                os.utime(path)
                return handle
        handle.close()
        return None

    def _fetch(self, name: str, size: int, fetch: Fetch, *, needed: bool) -> None:
        part = self.folder / f"{name}.{size}.part"
        with locked(self.folder / "room.lock"):  # one at a time, so that together they keep to the limit
            if not self._make_room(0 if part.exists() else size) and not needed:
                return
            part.touch()
        fetch(part)
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(self.folder / name)

    def _make_room(self, size: int) -> bool:
        """Remove files until `size` bytes fit; whether they do."""
        entries = sorted(self._entries())
        used = sum(one for _, _, one in entries)
        for _, path, one in entries:
            if used + size <= self.limit:
                break
            if _remove_unless_used(path):
                used -= one
        return used + size <= self.limit

    def _entries(self) -> Iterator[tuple[float, Path, int]]:
        """(time of last use, path, bytes) of each file, whole or being fetched."""
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError, ValueError):
                status = path.stat()
                if path.suffix == ".part":
                    yield status.st_mtime, path, int(path.suffixes[-2][1:])
                elif path.suffix != ".lock":
                    yield status.st_mtime, path, status.st_size

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise PvtctlError(
                    f"the disk is full: {self.folder} holds {self.size() / 1e9:.1f} GB of at most {self.limit / 1e9:.1f}",
                    "free some space, lower data.shards.cache_gb, or set PVTCTL_CACHE to a folder on another disk",
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise UsageError(
                    f"{self.folder} cannot be written: {error.strerror}", "set PVTCTL_CACHE to another folder"
                ) from error
            raise


def _remove_unless_used(path: Path) -> bool:
    """Remove a file that nobody has open, or a part that nobody completes; whether it is gone."""
    of_part = path.suffix == ".part"
    guard = path.with_name(path.name.removesuffix("".join(path.suffixes[-2:])) + ".lock") if of_part else path
    with suppress(OSError), locked(guard, wait=False, create=of_part) as mine:
        if mine:
            path.unlink(missing_ok=True)
            return True
    return False
