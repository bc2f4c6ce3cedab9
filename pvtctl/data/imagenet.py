"""The ImageNet layout: ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG, and the 1000 classes of ImageNet-1k."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from pvtctl.data.images import EncodedPicture
from pvtctl.errors import UsageError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
"""Files with these endings (in any case) are images; others are not looked at."""

LAYOUT = """expected: FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG (one folder a class, named by its wnid for ImageNet),
      or tar shards: FOLDER/train/*.tar and FOLDER/val/*.tar"""


class Names(Sequence[str]):
    """Many short texts in one block of memory, which loader processes share instead of copying."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [os.fsdecode(bytes(name)) for name in self._names[index]]
        return os.fsdecode(bytes(self._names[index]))

    def __iter__(self) -> Iterator[str]:
        return (os.fsdecode(bytes(name)) for name in self._names)


class ImageFolder:
    """One split in class folders. Labels are positions in the sorted folder names, the same for train and val.

    Raises UsageError: no such folder, no class folders, a class without images, classes that differ between the splits.
    With `class_names` given, those folders are taken and nothing is compared.
    """

    def __init__(self, root: Path | str, split: str, *, class_names: list[str] | None = None) -> None:
        self.folder = Path(root) / split
        if class_names is None:
            class_names = class_folders(self.folder)
            _compare_splits(Path(root), split, class_names)
        self.class_names = class_names
        files: list[str] = []
        labels: list[int] = []
        empty = []
        for label, name in enumerate(self.class_names):
            found = images_below(self.folder / name)
            if not found:
                empty.append(name)
            files += [f"{name}/{path}" for path in found]
            labels += [label] * len(found)
        if empty:
            raise UsageError(
                f"{len(empty)} class folder(s) without images in {self.folder}: {_some(empty)}",
                "remove the folder in train and val, or fill it; `pvtctl data check` lists every fault",
            )
        self.ids: Sequence[str] = Names(files)
        self.labels = np.array(labels, dtype=np.int64)

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises OSError."""
        return (self.folder / self.ids[index]).read_bytes()

    def picture(self, index: int) -> EncodedPicture:
        """Raises BadImage, OSError."""
        return EncodedPicture(self.read(index))

    def sizes(self) -> Iterator[int]:
        """Bytes of each file, in order."""
        return ((self.folder / name).stat().st_size for name in self.ids)


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out. Raises UsageError with the expected layout."""
    if not folder.is_dir():
        raise UsageError(f"no data folder {folder}", LAYOUT)
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries]
    names = sorted(name for name, is_folder in found if is_folder and not name.startswith("."))
    if not names:
        loose = any(name.lower().endswith(SUFFIXES) for name, _ in found)
        what = "holds images but no class folders" if loose else "is empty: it holds no class folders and no tar shards"
        raise UsageError(f"{folder} {what}", LAYOUT)
    return names


def images_below(folder: Path) -> list[str]:
    """Sorted paths of the images below a class folder, relative to it."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(where, folder)
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(name if inside == "." else f"{inside}/{name}")
    return sorted(found)


def _compare_splits(root: Path, split: str, names: list[str]) -> None:
    other = root / {"train": "val", "val": "train"}.get(split, "train")
    if not other.is_dir() or any(other.glob("*.tar")):
        return
    other_names = class_folders(other)
    if other_names != names:
        here, there = set(names), set(other_names)
        parts = [
            f"{len(only)} only in {where}: {_some(sorted(only))}"
            for only, where in ((here - there, split), (there - here, other.name))
            if only
        ]
        raise UsageError(
            f"{root}: train and val must have the same class folders; {'; '.join(parts)}",
            "labels are positions in the sorted folder names, so a missing folder would shift them",
        )


def _some(names: list[str], at_most: int = 8) -> str:
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")


@cache
def imagenet_classes() -> dict[str, str]:
    """wnid -> English name of the 1000 ImageNet-1k classes, in the order of their indices."""
    text = (Path(__file__).parent / "imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


@cache
def wnid_to_index() -> dict[str, int]:
    """wnid -> index 0..999 of ImageNet-1k."""
    return {wnid: index for index, wnid in enumerate(imagenet_classes())}


def imagenet_indices(class_names: Sequence[str]) -> list[int] | None:
    """For each class of a data set its ImageNet-1k index, or None unless all are wnids of ImageNet-1k.

    With it a 1000-class head is scored on a folder that holds only some of the classes:
    `target = indices[label]`, against all 1000 logits.
    """
    known = wnid_to_index()
    if not all(name in known for name in class_names):
        return None
    return [known[name] for name in class_names]


def readable_name(class_name: str) -> str:
    """`n01440764` -> `tench`; names that are no wnids stay."""
    return imagenet_classes().get(class_name, class_name)
