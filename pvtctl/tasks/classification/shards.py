"""Tar shards in webdataset's convention, read at random: ROOT/train/*.tar, ROOT/val/*.tar.

A sample is the group of members with one key (the path up to the first dot of its file name): an image (`.jpg`, `.jpeg`,
`.png`, `.webp`) and a label, either `.cls` (a number as text) or `.json` with `label` or `cls`. Each shard is scanned
once; the places of its members are kept in an index file next to it, so that any sample of any epoch is one seek away,
shuffling is exact, and a run resumes at any batch. Shards at a URL (`remote_shards.py`) become local files for that.

Class names come from `classes.txt` in ROOT, one a line (its first word). Without it the labels must be ImageNet-1k
indices.
"""

from __future__ import annotations

import json
import os
import tarfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pvtctl.data.class_names import imagenet_classes
from pvtctl.data.image_files import Names
from pvtctl.data.images import AS_STORED, EncodedPicture, Reading
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import write_text
from pvtctl.io.foreign import BadFile, parse_json, read_facts, read_text
from pvtctl.io.urls import expanded
from pvtctl.tasks.classification.settings import Shards

_IMAGES = ("jpg", "jpeg", "png", "webp")
INDEX_VERSION = 1
Rows = list[tuple[str, int, int, int]]
"""(key, label, offset, size) of each sample of a shard, in its order."""


def has_shards(root: Path, split: str, shards: Shards | None = None) -> bool:
    """True where the pattern of a split matches tar files below ROOT."""
    return any(True for _ in _found(root, (shards or Shards()).pattern(split)))


def _found(root: Path, pattern: str) -> Iterator[Path]:
    return (path for name in expanded(pattern) for path in root.glob(name))


class ShardSamples:
    """The samples of a split in tar shards with these names, from the rows of each.

    Raises UsageError: no samples, two shards of one name.
    """

    mix: int | None = None
    """Shards whose samples are shuffled together; None: all."""

    def __init__(self, place: str, names: Sequence[str], indices: Sequence[Rows], reading: Reading) -> None:
        self.reading = reading
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(
                f"{place} has two shards called {twice[0]}", "samples are known by the name of their shard"
            )
        rows = [(at, *row) for at, index in enumerate(indices) for row in index]
        if not rows:
            raise UsageError(f"the tar shards of {place} hold no samples", "see `pvtctl data check --help`")
        self.ids: Sequence[str] = Names([f"{names[at]}/{key}" for at, key, *_ in rows])
        self.places = np.array([(at, offset, size) for at, _, _, offset, size in rows], dtype=np.int64)
        """int64 (N, 3): shard, offset and bytes of each image."""
        self.labels = np.array([label for _, _, label, _, _ in rows], dtype=np.int64)
        self.class_names: list[str] = []

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises OSError."""

    def picture(self, index: int) -> EncodedPicture:
        """Raises BadImage, OSError."""
        return EncodedPicture(self.read(index), self.reading)

    def sizes(self) -> Iterator[int]:
        """Bytes of each image file, in order."""
        return (int(size) for size in self.places[:, 2])

    def name_classes(self, listed: str, text: str | None) -> None:
        """Take the class names from the text of a list, or ImageNet's without one. Raises UsageError."""
        self.class_names = _class_names(listed, text, int(self.labels.min()), int(self.labels.max()))


class ShardFolder(ShardSamples):
    """One split in local tar shards.

    Raises UsageError: a broken tar, a sample without image or label, labels outside the class list.
    """

    def __init__(
        self, root: Path | str, split: str, reading: Reading = AS_STORED, shards: Shards | None = None
    ) -> None:
        root, shards = Path(root), shards or Shards()
        self.mix = shards.mix
        self.shards = sorted(_found(root, shards.pattern(split)))
        super().__init__(
            str(root / split), [each.name for each in self.shards], [*map(shard_index, self.shards)], reading
        )
        listed = root / "classes.txt"
        self.name_classes(str(listed), read_text(listed) if listed.is_file() else None)

    def read(self, index: int) -> bytes:
        shard, offset, size = (int(value) for value in self.places[index])
        with self.shards[shard].open("rb") as handle:
            return os.pread(handle.fileno(), size, offset)


def shard_index(shard: Path) -> Rows:
    """The rows of a local shard; from the index file if it is current."""
    index_file = shard.with_name(index_name(shard.name))
    status = shard.stat()
    stamp = [INDEX_VERSION, status.st_size, status.st_mtime_ns]
    stored = read_facts(index_file, most=None)
    if stored.get("stamp") == stamp and (rows := rows_in(stored, status.st_size)) is not None:
        return rows
    samples = scan_shard(shard, shard)
    try:
        write_text(index_file, json.dumps({"stamp": stamp, "samples": samples}))
    except PvtctlError as error:
        warnings.warn(f"the index of {shard.name} was not saved, it is scanned again each time: {error}", stacklevel=2)
    return samples


def index_name(shard: str) -> str:
    """The name of the index file next to a shard."""
    return f".{shard}.index.json"


def rows_in(index: dict[str, Any], end: int) -> Rows | None:
    """The rows in an index, if they are those of a shard of this size; another program may have written it."""
    kinds = [str, int, int, int]
    rows = index.get("samples")
    rows = rows if isinstance(rows, list) else [None]
    if all(isinstance(row, list) and [*map(type, row)] == kinds and 0 <= row[2] <= end - row[3] <= end for row in rows):
        return [tuple(row) for row in rows]
    return None


def scan_shard(file: Path, shard: object) -> Rows:
    """The rows of a tar file; `shard` names it in messages. Raises UsageError."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key, suffix = f"{folder}/{stem}".lstrip("/"), suffix.lower()
                if not member.isfile() or not stem:
                    continue
                if suffix in _IMAGES:
                    images[key] = (member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    handle = tar.extractfile(member)
                    assert handle is not None  # it is a regular file
                    _take_label(labels, key, suffix, handle.read(), shard)
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{shard} is not a whole tar file: {error}", "copy it again") from error
    if unmatched := sorted(images.keys() ^ labels.keys()):
        raise UsageError(
            f"{shard}: {len(unmatched)} sample(s) lack an image or a label, the first is {unmatched[0]}",
            "a sample is KEY.jpg with KEY.cls (a number as text) or KEY.json with `label`",
        )
    return [(key, labels[key], *place) for key, place in images.items()]


def _take_label(labels: dict[str, int], key: str, suffix: str, text: bytes, shard: object) -> None:
    try:
        value = parse_json(text, shard)
        if suffix == "json":
            if not isinstance(value, dict):
                raise TypeError("facts about an image are a JSON object")
            value = value["label"] if "label" in value else value.get("cls", labels.get(key))
            if value is None:  # other facts about the image, its label is in a .cls
                return
        labels[key] = int(value)
        if isinstance(value, float) and value != labels[key]:
            raise ValueError(value)
    except (BadFile, ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{shard}: the label of {key} is not a number", "write it as text, like 17") from error


def _class_names(listed: str, text: str | None, lowest: int, highest: int) -> list[str]:
    if text is not None:
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{listed} names {repeated[0]} twice", "a class name is the first word of its line")
    else:
        names = list(imagenet_classes())
    if lowest < 0 or highest >= len(names):
        where = listed if text is not None else "ImageNet-1k (there is no classes.txt)"
        raise UsageError(
            f"labels of the tar shards go from {lowest} to {highest}, but {where} has {len(names)} classes",
            f"write {listed} with one class name a line",
        )
    return names
