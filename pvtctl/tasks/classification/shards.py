"""Tar shards in webdataset's convention, read at random: ROOT/train/*.tar, ROOT/val/*.tar.

A sample is the group of members with one key (the path up to the first dot of its file name): an image (`.jpg`, `.jpeg`,
`.png`, `.webp`) and a label, either `.cls` (a number as text) or `.json` with `label` or `cls`. Each shard is scanned
once; the places of its members are kept in an index file next to it, so that any sample of any epoch is one seek away,
shuffling is exact, and a run resumes at any batch. Hence shards must be local files, not streams.

Class names come from `classes.txt` in ROOT, one a line (its first word). Without it the labels must be ImageNet-1k
indices.
"""

from __future__ import annotations

import json
import os
import tarfile
import warnings
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

_IMAGES = ("jpg", "jpeg", "png", "webp")
_INDEX_VERSION = 1


def has_shards(root: Path, split: str) -> bool:
    """True where ROOT/split holds tar files."""
    return (root / split).is_dir() and any((root / split).glob("*.tar"))


class ShardFolder:
    """One split in tar shards.

    Raises UsageError: a broken tar, a sample without image or label, labels outside the class list.
    """

    def __init__(self, root: Path | str, split: str, reading: Reading = AS_STORED) -> None:
        root, self.reading = Path(root), reading
        self.shards = sorted((root / split).glob("*.tar"))
        rows = [(at, *row) for at, shard in enumerate(self.shards) for row in shard_index(shard)]
        if not rows:
            raise UsageError(f"the tar shards of {root / split} hold no samples", "see `pvtctl data check --help`")
        keys = [f"{self.shards[at].name}/{key}" for at, key, *_ in rows]
        self.ids: Sequence[str] = Names(keys)
        self._places = np.array([(at, offset, size) for at, _, _, offset, size in rows], dtype=np.int64)
        self.labels = np.array([label for _, _, label, _, _ in rows], dtype=np.int64)
        self.class_names = _class_names(root, int(self.labels.min()), int(self.labels.max()))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> bytes:
        """The image file's bytes. Raises OSError."""
        shard, offset, size = (int(value) for value in self._places[index])
        with self.shards[shard].open("rb") as handle:
            return os.pread(handle.fileno(), size, offset)

    def picture(self, index: int) -> EncodedPicture:
        """Raises BadImage, OSError."""
        return EncodedPicture(self.read(index), self.reading)

    def sizes(self) -> Iterator[int]:
        """Bytes of each image file, in order."""
        return (int(size) for size in self._places[:, 2])


def shard_index(shard: Path) -> list[tuple[str, int, int, int]]:
    """(key, label, offset, size) of each sample of a shard, in its order; from the index file if it is current."""
    index_file = shard.with_name(f".{shard.name}.index.json")
    status = shard.stat()
    stamp = [_INDEX_VERSION, status.st_size, status.st_mtime_ns]
    stored = read_facts(index_file, most=None)
    if stored.get("stamp") == stamp and _are_samples(stored.get("samples"), status.st_size):
        return [tuple(row) for row in stored["samples"]]
    samples = _scan(shard)
    try:
        write_text(index_file, json.dumps({"stamp": stamp, "samples": samples}))
    except PvtctlError as error:
        warnings.warn(f"the index of {shard.name} was not saved, it is scanned again each time: {error}", stacklevel=2)
    return samples


def _are_samples(rows: Any, end: int) -> bool:
    """Whether an index has samples of a shard of this size; another program may have written it."""
    kinds = [str, int, int, int]
    rows = rows if isinstance(rows, list) else [None]
    return all(
        isinstance(row, list) and [*map(type, row)] == kinds and 0 <= row[2] <= end - row[3] <= end for row in rows
    )


def _scan(shard: Path) -> list[tuple[str, int, int, int]]:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
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


def _take_label(labels: dict[str, int], key: str, suffix: str, text: bytes, shard: Path) -> None:
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


def _class_names(root: Path, lowest: int, highest: int) -> list[str]:
    listed = root / "classes.txt"
    if listed.is_file():
        lines = read_text(listed).splitlines()
        names = [line.split()[0] for line in lines if line.strip()]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{listed} names {repeated[0]} twice", "a class name is the first word of its line")
    else:
        names = list(imagenet_classes())
    if lowest < 0 or highest >= len(names):
        where = str(listed) if listed.is_file() else "ImageNet-1k (there is no classes.txt)"
        raise UsageError(
            f"labels of the tar shards go from {lowest} to {highest}, but {where} has {len(names)} classes",
            f"write {listed} with one class name a line",
        )
    return names
