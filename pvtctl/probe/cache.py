"""Features on disk: shards of tensors in one folder per key, within a limit of bytes, safe for several processes.

    FOLDER/KEY/SPLIT/00000-CRC.safetensors
    FOLDER/KEY.lock

A shard is written under another name and renamed; its name has the checksum of its bytes, so that a damaged one is found and
computed again. A key is locked while a process works with it; the least recently used of the others make room.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path, locked

FACTS = "facts"
"""Key of the JSON in a shard's header."""
_BLOCK = 1 << 22


class FeatureCache:
    """All keys in one folder, which hold at most `limit` bytes together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    @contextmanager
    def opened(self, key: str, wait: Callable[[], None]) -> Iterator[Entry]:
        """The features of `key`, for this process alone until the block ends; `wait()` is called while it is not free.

        Raises UsageError if the folder cannot be written.
        """
        entry = Entry(self, self.folder / key)
        while True:
            with ExitStack() as held:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    if mine := held.enter_context(locked(_lock_of(entry.folder), wait=False)):
                        entry.prepare()
                except OSError as error:
                    hint = "choose another --cache"
                    raise UsageError(f"{entry.folder} cannot be used: {error.strerror}", hint) from error
                if mine:
                    yield entry
                    return
            wait()

    def make_room(self, size: int, own: Path) -> None:
        """Remove other keys, the least recently used first, until `size` more bytes fit. Raises UsageError."""
        used = {folder: _bytes_in(folder) for folder in self.folder.iterdir() if folder.is_dir()}
        others = sorted((folder for folder in used if folder != own), key=lambda folder: folder.stat().st_mtime)
        while sum(used.values()) + size > self.limit and others:
            folder = others.pop(0)
            with locked(_lock_of(folder), wait=False) as mine:
                if mine:  # else another process works with it
                    shutil.rmtree(folder, ignore_errors=True)
                    del used[folder]
        if sum(used.values()) + size > self.limit:
            raise UsageError(
                f"features take {(sum(used.values()) + size) / 1e9:.2f} GB in {self.folder}, more than the "
                f"{self.limit / 1e9:.2f} GB of --cache-size",
                "raise it, take smaller images or fewer --views, or name a --cache on a larger disk",
            )


class Entry:
    """The shards of one key; see `FeatureCache.opened`."""

    def __init__(self, cache: FeatureCache, folder: Path) -> None:
        self.cache, self.folder = cache, folder

    def prepare(self) -> None:
        """Make the folder, or mark it as used now, and remove what a killed process left. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        os.utime(self.folder)
        for left in self.folder.rglob("*.tmp"):
            left.unlink(missing_ok=True)

    def find(self, split: str, number: int) -> Path | None:
        """An intact shard; damaged ones are removed."""
        for path in sorted((self.folder / split).glob(f"{number:05d}-*.safetensors")):
            if path.stem.partition("-")[2] == _checksum(path) and _facts(path) is not None:
                return path
            path.unlink(missing_ok=True)
        return None

    def write(self, split: str, number: int, tensors: Mapping[str, Tensor], facts: str) -> Path:
        """Write a shard; `facts` is its JSON. Raises UsageError when it does not fit, PvtctlError for a full disk."""
        self.cache.make_room(sum(each.numel() * each.element_size() for each in tensors.values()), self.folder)
        folder = self.folder / split
        folder.mkdir(exist_ok=True)
        written = folder / f"{number:05d}.new"
        with atomic_path(written) as temporary:
            save_file(dict(tensors), temporary, metadata={FACTS: facts})
        path = folder / f"{number:05d}-{_checksum(written)}.safetensors"
        written.replace(path)
        return path


def _facts(path: Path) -> str | None:
    try:
        with safe_open(path, "pt") as handle:
            return (handle.metadata() or {}).get(FACTS)
    except (SafetensorError, OSError):
        return None


def _checksum(path: Path) -> str:
    value = 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
