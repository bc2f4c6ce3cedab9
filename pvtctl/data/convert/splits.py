"""The splits that a source states itself: in YOLO's data.yaml, in lists of images, or by the names of its folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pvtctl.data.convert.source import ImageIndex
from pvtctl.errors import UsageError
from pvtctl.io.foreign import read_foreign
from pvtctl.io.names import plural, shown
from pvtctl.io.plain_yaml import read_plain_yaml

YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_HINT = "correct it, or draw the splits anew: --val-share 0.2"


@dataclass(frozen=True)
class StatedSplits:
    """What a source says of its splits."""

    origin: str
    """`yaml` or `lists`."""
    file: Path
    """The first file that says it."""
    split_of: dict[Path, str]
    """Image -> train, val or test."""

    @property
    def named(self) -> set[str]:
        """The splits that hold an image."""
        return set(self.split_of.values())


def data_yaml(source: Path) -> tuple[Path, dict[str, Any]] | None:
    """YOLO's data file at the top of a source, and its values. Raises BadFile."""
    file = next((source / name for name in YAML_FILES if (source / name).is_file()), None)
    if file is None:
        return None
    values: dict[str, Any] = read_plain_yaml(file, dict, hint="or give --classes FILE and --val-share")
    return file, values


def stated_splits(source: Path, index: ImageIndex) -> StatedSplits | None:
    """The splits of the images by data.yaml, else by lists; None if there are neither.

    Raises UsageError for an image in both train and val, a listed file that is not there, and a split without an image.
    """
    return _by_yaml(source, index) or _by_lists(source, index)


def _by_yaml(source: Path, index: ImageIndex) -> StatedSplits | None:
    found = data_yaml(source)
    if found is None:
        return None
    file, values = found
    entries = {split: next((values[key] for key in keys if values.get(key)), None) for split, keys in _KEYS.items()}
    if not entries["train"] or not entries["val"]:  # a file of class names alone states no splits
        return None
    images: dict[str, list[Path]] = {}
    for split, entry in entries.items():
        words = [entry] if isinstance(entry, str) else entry or []
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise UsageError(f"{file}: `{split}` is not a folder, a text file or a list of them", _HINT)
        place = _Place(file, values.get("path"), index)
        images[split] = [path for word in words for path in place.images(word, split)]
    return _checked(StatedSplits("yaml", file, _joined(images, file)), images)


class _Place:
    """Finds what the entries of a data.yaml name: they are relative to its `path`, to itself, or left from elsewhere."""

    def __init__(self, file: Path, path: Any, index: ImageIndex) -> None:
        self.file, self.index = file, index
        own = file.parent
        stated = [own / path, Path(path)] if isinstance(path, str) and path else []
        self.bases = [*stated, own, own.parent]

    def images(self, word: str, split: str) -> list[Path]:
        word = word.replace("\\", "/")
        places = [base / word for base in self.bases] + [base / word.removeprefix("../") for base in self.bases]
        lists = [place for place in places if place.suffix == ".txt" and place.is_file()]
        if lists:
            return list(_listed(lists[0], self.index, must_exist=split != "test"))
        for place in places:
            if place.is_dir() and (inside := self.index.below(place)):
                return inside
        if inside := self.index.below_like(word):
            return inside
        if split == "test":
            return []
        raise UsageError(f"{self.file}: `{split}: {shown(word)}` names no folder of images that is there", _HINT)


def _by_lists(source: Path, index: ImageIndex) -> StatedSplits | None:
    """By `train.txt`, `val.txt` and `test.txt` of VOC (ImageSets/Main) or darknet."""
    images: dict[str, list[Path]] = defaultdict(list)
    first: Path | None = None
    for folder in (source, source / "ImageSets" / "Main", *sorted(source.glob("*/ImageSets/Main"))):
        files = {
            split: next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
            for split, names in _KEYS.items()
        }
        if files["train"] is None or (files["val"] is None and files["test"] is None):
            continue
        root = folder.parent.parent if folder.name == "Main" else None
        for split, file in files.items():
            if file is not None:
                first = first or file
                images[split] += _listed(file, index, root, must_exist=split != "test")
    return None if first is None else _checked(StatedSplits("lists", first, _joined(images, first)), images)


def _listed(file: Path, index: ImageIndex, root: Path | None = None, *, must_exist: bool) -> Iterator[Path]:
    """The images that a list names, one a line, with or without folders and suffix; of equal names those below `root`."""
    for number, line in enumerate(os.fsdecode(read_foreign(file)).removeprefix("\ufeff").splitlines(), start=1):
        words = [part for part in PurePosixPath(line.strip().replace("\\", "/")).parts if part not in (".", "..")]
        if not words:
            continue
        fits = index.ending_in(words, root)
        if len(fits) == 1:
            yield fits[0]
        elif fits:
            both = " and ".join(str(index.relative(path)) for path in fits[:2])
            raise UsageError(f"{file}:{number}: two images fit {shown(line.strip())}: {both}", _HINT)
        elif must_exist:
            raise UsageError(
                f"{file}:{number}: {shown(line.strip())} is not among the {plural(len(index.paths), 'image')}", _HINT
            )


def _joined(images: dict[str, list[Path]], file: Path) -> dict[Path, str]:
    train, val = (set(images.get(split, ())) for split in ("train", "val"))
    if both := sorted(train & val):
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        raise UsageError(f"{file}: {both[0]}{more} is in both train and val: every score would be flattered", _HINT)
    return {path: split for split in ("test", "val", "train") for path in images.get(split, ())}


def _checked(splits: StatedSplits, images: dict[str, list[Path]]) -> StatedSplits:
    for split in ("train", "val"):
        if split in images and not images[split]:
            raise UsageError(f"{splits.file}: the split {split} has no image", _HINT)
    return splits


def require_labelled(splits: StatedSplits | None, labelled: Sequence[str | None], folders: set[str | None]) -> None:
    """Raise UsageError if a split that the source names, in a file or by a folder, has no labelled image."""
    named = folders if splits is None else splits.named
    where = "a folder" if splits is None else str(splits.file)
    for split in ("train", "val"):
        if split in named and split not in labelled:
            raise UsageError(f"{where} names a split {split}, and no image of it is labelled", _HINT)
