"""Finds images and depth files of a depth set: folders, NYUv2's split files, KITTI's Eigen split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvtctl.data.image_files import SUFFIXES, Names
from pvtctl.data.layouts import DEPTH_FOLDERS, EXPECTED, SPLIT_FILES
from pvtctl.errors import UsageError, nearest
from pvtctl.io.foreign import BadFile, read_foreign, read_json, require_folder, walk_files
from pvtctl.io.names import name_bytes, plural
from pvtctl.tasks.depth.files import DEPTH_SUFFIXES
from pvtctl.tasks.depth.settings import DepthData

LAYOUTS: Mapping[str, str] = {name: EXPECTED[name] for name in ("nyu", "kitti", "depth")}
"""Data set name -> expected layout of its folder."""

INTEGER_SCALES: Mapping[str, float | None] = {"nyu": 1000.0, "kitti": 256.0, "depth": None}
"""Data set name -> value per metre in integer files."""

DEPTH_FILE = "depth.json"
"""At the top of a set: `scale` and `invalid`, as in a recipe's `data.depth`."""

SPLITS = ("train", "val")
_SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "test")}
_IMAGE_FOLDERS = ("rgb", "images", "image")
_ROOTS = {
    "nyu": ("", "sync", "official_splits/{split}", "train", "test", "{split}"),
    "kitti": ("", "raw", "gt", "data_depth_annotated", "gt/{split}", "{split}", "val", "train"),
    "depth": ("",),
}
_ROOTS["kitti"] += tuple(f"{top}/{part}" for top in ("data_depth_annotated", "gt") for part in ("train", "val"))


class NoSplitError(UsageError):
    """The folder does not have this split."""


@dataclass(frozen=True)
class DepthPairs:
    """Images and their depth files."""

    names: Sequence[str]
    """Unique in the split."""
    images: Sequence[str]
    """Paths."""
    depths: Sequence[str]
    problems: dict[str, int] = field(default_factory=dict)
    """Reason -> number of images left out."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> their names, for `pvtctl data check`."""

    def __len__(self) -> int:
        return len(self.names)

    def digest(self, indices: NDArray[np.int64], coding: str) -> str:
        """Hash of names and sizes of the files, and of the values' encoding."""
        digest = hashlib.sha256(coding.encode())
        for index in indices.tolist():
            sizes = (_bytes_of(path) for path in (self.images[index], self.depths[index]))
            digest.update(name_bytes(f"{self.names[index]}\0{'.'.join(map(str, sizes))}\n"))
        return digest.hexdigest()[:16]


def find_depth_pairs(name: str, root: Path | str, split: str, settings: DepthData) -> DepthPairs:
    """The pairs of a split of `nyu`, `kitti` or `depth` at `root`; `settings` are a recipe's `data.depth`.

    A split file, given or at the top under its usual name, precedes folders. Images without depth (`None`
    in a split file, or no file of the name) are left out and counted in `problems`.
    Raises UsageError: no such folder, split or split file, layout or pairs.
    """
    root = Path(root).expanduser()
    if name not in LAYOUTS:
        raise UsageError(f"unknown depth data {name!r}", nearest(name, tuple(LAYOUTS)))
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}", nearest(split, SPLITS))
    require_folder(root, LAYOUTS[name])
    file = _split_file(name, root, split, settings)
    return _listed(name, root, split, file) if file is not None else _in_folders(name, root, split)


def count_depth(name: str, root: Path, split: str) -> dict[str, int]:
    """Images of a split, for `pvtctl data ls`. Raises UsageError."""
    return {split: len(find_depth_pairs(name, root, split, DepthData()))}


def read_depth_json(root: Path | str) -> dict[str, Any]:
    """`scale` and `invalid` of the set's depth.json, if given. Raises UsageError for an invalid file."""
    path = Path(root).expanduser() / DEPTH_FILE
    if not path.is_file():
        return {}
    hint = 'it holds {"scale": 1000, "invalid": [65535]}: the value of a metre, and values that are no depth'
    told = read_json(path, hint=hint)
    if not isinstance(told, dict) or set(told) - {"scale", "invalid"}:
        raise UsageError(f"{path} is not an object of `scale` and `invalid`", hint)
    scale, invalid = told.get("scale"), told.get("invalid", [])
    numbers = [scale, *invalid] if isinstance(invalid, list) else [None]
    if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers[scale is None :]):
        raise UsageError(f"{path}: scale must be a number, invalid a list of numbers", hint)
    return {"scale": None if scale is None else float(scale), "invalid": tuple(float(value) for value in invalid)}


def _split_file(name: str, root: Path, split: str, settings: DepthData) -> Path | None:
    key = "train_split_file" if split == "train" else "split_file"
    named = settings.train_split_file if split == "train" else settings.split_file
    if named is not None:
        places = [Path(named).expanduser(), root / named]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            there = sorted(path.name for path in root.glob("*.txt"))
            hint = nearest(Path(named).name, there) if there else LAYOUTS[name]
            raise UsageError(f"no split file {named} (data.depth.{key}), neither here nor in {root}", hint)
        return found
    usual = SPLIT_FILES.get(name, {}).get(split)
    return root / usual if usual is not None and (root / usual).is_file() else None


def _listed(name: str, root: Path, split: str, file: Path) -> DepthPairs:
    """Pairs of a split file: `image depth focal` a line, relative to one of the layout's roots."""
    names, images, depths, without = [], [], [], []
    word = "train" if split == "train" else "test"
    roots = [root / place.format(split=word) for place in _ROOTS[name]]
    find_image, find_depth = _Finder(roots), _Finder(roots)
    for number, line in enumerate(_lines(file), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (2, 3):
            raise UsageError(f"{file}:{number}: {len(words)} words, not `image depth focal`", LAYOUTS[name])
        image, truth = (word.lstrip("/") for word in words[:2])
        if truth == "None":
            without.append(image)
            continue
        names.append(image)
        images.append(str(find_image(image)))
        depths.append(str(find_depth(truth)))
    if not names:
        raise UsageError(f"{file} lists no image with depth", LAYOUTS[name])
    if not (find_image.found and find_depth.found):
        what = images[0] if not find_image.found else depths[0]
        raise UsageError(
            f"{file} lists {plural(len(names), 'pair')}, none of which is there; the first is {what}", LAYOUTS[name]
        )
    return _pairs(names, images, depths, {"without_depth": without})


class _Finder:
    """Looks up listed files in several roots, starting with the previous file's."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = list(roots)
        self.found = 0

    def __call__(self, name: str) -> Path:
        for at, root in enumerate(self.roots):
            path = root / name
            if path.is_file():
                self.found += 1
                self.roots.insert(0, self.roots.pop(at))
                return path
        return self.roots[0] / name


def _in_folders(name: str, root: Path, split: str) -> DepthPairs:
    places = [root / folder for folder in _SPLIT_FOLDERS[split]]
    place = next((place for place in places if _halves(place)), None)
    halves = _halves(place or root)
    has_splits = any(_halves(root / folder) for folders in _SPLIT_FOLDERS.values() for folder in folders)
    if halves is None or (place is None and has_splits):
        raise NoSplitError(f"no {split} split of depth data in {root}", LAYOUTS[name])
    if place is None and split == "train":
        raise NoSplitError(
            f"{root} holds images and depth without splits: it can be evaluated, not trained on",
            f"move the training data to {root / 'train'}/rgb and {root / 'train'}/depth, the rest to val/",
        )
    image_folder, depth_folder = halves
    pictures, truths = _by_name(image_folder, SUFFIXES), _by_name(depth_folder, DEPTH_SUFFIXES)
    both = [stem for stem in pictures if stem in truths]
    if not both:
        first = next(iter(pictures), None)
        told = f": {plural(len(pictures), 'image')} ({first} ...)" if first else ": no image"
        raise UsageError(
            f"no image of {image_folder} has a depth file of its name in {depth_folder}{told}, {len(truths)} depth files",
            f"depth files end in {', '.join(DEPTH_SUFFIXES)}; {LAYOUTS[name]}",
        )
    left_out = {
        "without_depth": [pictures[stem] for stem in pictures if stem not in truths],
        "without_image": [truths[stem] for stem in truths if stem not in pictures],
    }
    names = [pictures[stem] for stem in both]
    images = [f"{image_folder}/{name}" for name in names]
    return _pairs(names, images, [f"{depth_folder}/{truths[stem]}" for stem in both], left_out)


def _halves(place: Path) -> tuple[Path, Path] | None:
    """Image and depth folders inside a folder that has both."""
    images, depths = (
        next((place / folder for folder in folders if (place / folder).is_dir()), None)
        for folders in (_IMAGE_FOLDERS, DEPTH_FOLDERS)
    )
    return (images, depths) if images is not None and depths is not None else None


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Relative path without suffix -> relative path, sorted; the first if several share a name."""
    found: dict[str, str] = {}
    for path in walk_files(folder, lambda path, reason: None, suffixes=suffixes, follow=True):
        name = path.relative_to(folder)
        found.setdefault(name.with_suffix("").as_posix(), name.as_posix())
    return found


def _pairs(names: list[str], images: list[str], depths: list[str], left_out: dict[str, list[str]]) -> DepthPairs:
    problems = {
        f"images_{kind}" if kind == "without_depth" else f"depth_files_{kind}": len(found)
        for kind, found in left_out.items()
        if found
    }
    return DepthPairs(Names(names), Names(images), Names(depths), problems, left_out)


def _lines(file: Path) -> list[str]:
    hint = "it has lines `image depth focal`"
    text = os.fsdecode(read_foreign(file, hint=hint))  # names on the disk need not be UTF-8
    if "\0" in text:
        raise BadFile(file, "cannot be read as text", hint)
    return text.removeprefix("\ufeff").splitlines()


def _bytes_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
