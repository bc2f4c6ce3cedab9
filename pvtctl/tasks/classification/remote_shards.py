"""Tar shards at a URL: fetched into a bounded cache, the next ones while the network trains.

What is read when depends on the recipe alone (`ShardWindows`), so a run continues to the bit wherever it was ended, with
whatever is in the cache. The index of each shard is made once and kept. One that is on the server with its shard, as
`pvtctl` writes it next to local shards, saves fetching them all before the first epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import queue
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from torch.utils.data import get_worker_info

from pvtctl.data.images import AS_STORED, Reading
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.console import progress_bars, say
from pvtctl.io.file_cache import FileCache
from pvtctl.io.files import user_folder, write_text
from pvtctl.io.foreign import BadFile, parse_json, read_facts
from pvtctl.io.remote import RemoteFile, fetch, look_up, matching, read_part, read_small
from pvtctl.io.urls import bare, below, expanded, with_secrets, without_secrets
from pvtctl.tasks.classification.settings import Shards
from pvtctl.tasks.classification.shards import INDEX_VERSION, Rows, ShardSamples, index_name, rows_in, scan_shard

MIX = 8
"""Shards that are shuffled together, unless `data.shards.mix` says otherwise."""
_AT_ONCE = 16
"""Questions to a server at a time, and a quarter of it of files fetched at a time, before training starts."""


class RemoteShards(ShardSamples):
    """One split in tar shards at a URL. `only`: take no more than so many shards, spread over the list.

    Raises UsageError: no such shards, a broken one, a cache that is too small. ServerAway.
    """

    def __init__(
        self,
        root: str,
        split: str,
        reading: Reading = AS_STORED,
        shards: Shards | None = None,
        *,
        only: int | None = None,
    ) -> None:
        shards, root = shards or Shards(), with_secrets(root)
        self.mix = shards.mix or MIX
        urls = shard_urls(root, shards.pattern(split))
        self.total = len(urls)
        """Shards of the split."""
        if only is not None:
            urls = [urls[at * len(urls) // only] for at in range(min(only, len(urls)))] if len(urls) > only else urls
        store = user_folder("cache") / "shards"
        self._cache = FileCache(store / "files", int(shards.cache_gb * 1e9))
        self._index_folder = store / "index"
        self._whole: frozenset[int] = frozenset(range(len(urls)) if only is not None else ())
        self._own: _OfProcess | None = None
        self.files = _each(look_up, urls, _AT_ONCE, f"looking up {split} shards")
        if only is None:
            self._require_room(shards.cache_gb)
        indices = _each(self._index, self.files, _AT_ONCE // 4, f"reading the indices of {split} shards")
        place = without_secrets(below(root, shards.pattern(split)))
        super().__init__(place, [*map(_name, urls)], indices, reading)
        names = read_small(below(root, "classes.txt"))
        self.name_classes(without_secrets(below(root, "classes.txt")), None if names is None else _as_text(names, root))

    def _require_room(self, gigabytes: float) -> None:
        """Raise UsageError unless the shards of two windows fit: those that are read, and the next."""
        assert self.mix is not None
        largest = sorted((file.size for file in self.files), reverse=True)[: 2 * self.mix]
        if sum(largest) > self._cache.limit:
            raise UsageError(
                f"data.shards.cache_gb: {gigabytes:g} GB do not hold {len(largest)} shards, {sum(largest) / 1e9:.2g} GB: "
                f"{self.mix} that are shuffled together, and as many that are read ahead",
                f"--set data.shards.cache_gb={np.ceil(sum(largest) / 1e8) / 10:g}, or a smaller data.shards.mix",
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_own": None}  # open files and threads stay in their process

    def read(self, index: int) -> bytes:
        """Of a shard that is being read whole, from the cache; else these bytes alone. Raises OSError, PvtctlError."""
        shard, offset, size = (int(value) for value in self.places[index])
        file, own = self.files[shard], self._of_process()
        if shard in own.wanted:
            if shard not in own.open:
                own.open[shard] = self._open(file)
            return os.pread(own.open[shard].fileno(), size, offset)
        if shard not in self._whole and file.in_parts:
            return read_part(file, offset, size)
        with self._open(file) as handle:
            return os.pread(handle.fileno(), size, offset)

    def prepare(self, shards: Sequence[int]) -> None:
        """From now on samples of these shards are read in this process: they are fetched whole, ahead of their use."""
        own = self._of_process()
        if list(shards) == own.wanted:
            return
        for shard in own.open.keys() - set(shards):
            own.open.pop(shard).close()
        own.wanted = list(shards)
        own.ahead.put(None)
        if own.thread is None:
            own.thread = threading.Thread(target=self._read_ahead, args=(own,), daemon=True)
            own.thread.start()

    def _read_ahead(self, own: _OfProcess) -> None:
        """Fetch what this process wants, each worker beginning at another shard; errors show when a shard is read."""
        worker = get_worker_info()
        first = worker.id if worker is not None else 0
        while True:
            own.ahead.get()
            wanted = own.wanted
            for shard in [*wanted[first % len(wanted) :], *wanted[: first % len(wanted)]]:
                if own.wanted is not wanted:  # it reads on
                    break
                file = self.files[shard]
                with suppress(PvtctlError, OSError):
                    self._cache.fetch_ahead(_cached_name(file), file.size, partial(fetch, file))

    def _of_process(self) -> _OfProcess:
        if self._own is None or self._own.pid != os.getpid():
            self._own = _OfProcess()
        return self._own

    def _open(self, file: RemoteFile) -> BinaryIO:
        return self._cache.open(_cached_name(file), file.size, partial(fetch, file))

    def _index(self, file: RemoteFile) -> Rows:
        """The rows of a shard: stored here, from the server, or by a scan of the shard."""
        index_file, stamp = self._index_folder / f"{_known_as(file.url)}.json", [INDEX_VERSION, file.size, file.tag]
        stored = read_facts(index_file, most=None)
        if stored.get("stamp") == stamp and (rows := rows_in(stored, file.size)) is not None:
            return rows
        before = stored.get("stamp")
        if isinstance(before, list) and len(before) == 3 and before[0] == INDEX_VERSION:
            say(
                f"warning: {without_secrets(file.url)} was changed on the server since it was indexed: it had {before[1]} bytes"
                f" (ETag {before[2]}), now it has {file}; a run that used it is not resumed to the bit"
            )
        rows = self._published_index(file)
        if rows is None:
            with self._open(file):  # keeps it there
                rows = scan_shard(self._cache.folder / _cached_name(file), without_secrets(file.url))
        write_text(index_file, json.dumps({"stamp": stamp, "samples": rows}))
        return rows

    def _published_index(self, file: RemoteFile) -> Rows | None:
        """The rows in the index that is on the server with a shard, if it is of a shard of this size."""
        folder, _, name = file.url.partition("?")[0].rpartition("/")
        query = file.url.partition("?")[2]
        found = read_small(f"{folder}/{index_name(name)}{'?' + query if query else ''}")
        with suppress(BadFile):
            index = {} if found is None else parse_json(found, "the index", dict)
            stamp = index.get("stamp")
            if isinstance(stamp, list) and stamp[:2] == [INDEX_VERSION, file.size]:
                return rows_in(index, file.size)
        return None


class _OfProcess:
    """What a process has open, and wants."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.open: dict[int, BinaryIO] = {}
        self.wanted: list[int] = []
        self.ahead: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


def shard_urls(root: str, pattern: str) -> list[str]:
    """The sorted URLs that a pattern below a URL stands for. Raises UsageError if there are none."""
    urls: list[str] = []
    for name in expanded(pattern):
        url = below(root, name)
        urls += matching(url) if "*" in name or "[" in name else [url]
    if not urls:
        raise UsageError(
            f"no shards match {without_secrets(below(root, pattern))}",
            "name them by --set 'data.shards.train=train-{00000..00099}.tar', likewise data.shards.val: "
            "not every server lists its files",
        )
    return sorted(set(urls))


def _each(of: Callable[[Any], Any], items: Sequence[Any], at_once: int, what: str) -> list[Any]:
    """The results for all items, some at a time, with a progress bar on a terminal."""
    with progress_bars() as bars, ThreadPoolExecutor(min(at_once, len(items))) as pool:
        task = bars.add_task(what, total=len(items))
        results = []
        try:
            for result in pool.map(of, items):
                results.append(result)
                bars.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return results


def _name(url: str) -> str:
    return posixpath.basename(bare(url))


def _known_as(url: str, *version: object) -> str:
    """A name for files of a URL: readable, and unique to it and the version."""
    digest = hashlib.sha256("\0".join((bare(url), *map(str, version))).encode()).hexdigest()[:20]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', _name(url).removesuffix('.tar'))[-60:]}-{digest}"


def _cached_name(file: RemoteFile) -> str:
    return f"{_known_as(file.url, file.size, file.tag)}.tar"


def _as_text(data: bytes, root: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{without_secrets(below(root, 'classes.txt'))} is not UTF-8 text") from error
