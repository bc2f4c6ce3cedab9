"""An object store in this process, registered with fsspec in place of s3fs or gcsfs: flat names, tags, errors of its own."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import _registry

from pvtctl.io import remote

TAGS = {"s3": "ETag", "gs": "etag"}
"""What s3fs and gcsfs call the tag of a file's version."""


@dataclass
class ObjectStore:
    """What the store holds and was asked for; `faults` are raised by requests for bytes, one each."""

    scheme: str
    files: dict[str, bytes] = field(default_factory=dict)
    """By name: `bucket/train/0.tar`."""
    tags: dict[str, str] = field(default_factory=dict)
    """Default: from the bytes."""
    faults: list[Exception] = field(default_factory=list)
    asked: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    """(name, start, end) of each request for bytes."""
    options: dict[str, Any] = field(default_factory=dict)
    """With which the file system was opened."""

    def reads(self, name: str) -> int:
        return sum(asked == name for asked, _, _ in self.asked)


def open_store(scheme: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty store behind `scheme`://, until the test ends."""
    store = ObjectStore(scheme)

    class Bucket(AbstractFileSystem):
        protocol = scheme
        cachable = False

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            store.options = options

        def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
            folder = self._strip_protocol(path).rstrip("/") + "/"
            below = [name for name in store.files if name.startswith(folder)]
            if not below:
                raise FileNotFoundError(path)
            names = dict.fromkeys(folder + name[len(folder) :].partition("/")[0] for name in below)
            return [self.info(name) for name in names] if detail else list(names)

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            name = self._strip_protocol(path)
            if name in store.files:
                data = store.files[name]
                tag = store.tags.get(name, f'"{hash(data):x}"')
                return {"name": name, "size": len(data), "type": "file", TAGS[scheme]: tag}
            if any(each.startswith(f"{name}/") for each in store.files):
                return {"name": name, "size": 0, "type": "directory"}
            raise FileNotFoundError(path)

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            name = self._strip_protocol(path)
            store.asked.append((name, start, end))
            if store.faults:
                raise store.faults.pop(0)
            if name not in store.files:
                raise FileNotFoundError(path)
            return store.files[name][start:end]

    monkeypatch.setitem(sys.modules, remote.SCHEMES[scheme], types.ModuleType(remote.SCHEMES[scheme]))
    monkeypatch.setattr(remote, "_OPEN", {})
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setitem(_registry, scheme, Bucket)  # as `register_implementation`, until the test ends
    return store
