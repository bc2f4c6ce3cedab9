"""ImageNet's class folders: ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pvtctl.data.image_files import SUFFIXES, Names, images_below
from pvtctl.data.images import AS_STORED, EncodedPicture, Reading, image_bytes
from pvtctl.data.layouts import IMAGENET_LAYOUT
from pvtctl.errors import UsageError
from pvtctl.io.foreign import require_folder


class ImageFolder:
    """One split in class folders. Labels are positions in the sorted folder names, the same for train and val.

    Raises UsageError: no such folder, no class folders, a class without images, classes that differ between the splits.
    With `class_names` given, those folders are taken and nothing is compared.
    """

    def __init__(
        self, root: Path | str, split: str, *, class_names: list[str] | None = None, reading: Reading = AS_STORED
    ) -> None:
        self.folder, self.reading = Path(root) / split, reading
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

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises BadImage."""
        return image_bytes(self.folder / self.ids[index])

    def picture(self, index: int) -> EncodedPicture:
        """Raises BadImage, OSError."""
        return EncodedPicture(self.read(index), self.reading)

    def sizes(self) -> Iterator[int]:
        """Bytes of each file, in order."""
        return ((self.folder / name).stat().st_size for name in self.ids)


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder`, hidden ones left out. Raises UsageError with the expected layout."""
    require_folder(folder, IMAGENET_LAYOUT)
    with os.scandir(folder) as entries:
        found = [(entry.name, Path(entry).is_dir()) for entry in entries]
    names = sorted(name for name, is_folder in found if is_folder and not name.startswith("."))
    if not names:
        loose = any(name.lower().endswith(SUFFIXES) for name, _ in found)
        what = "holds images but no class folders" if loose else "is empty: it holds no class folders and no tar shards"
        raise UsageError(f"{folder} {what}", IMAGENET_LAYOUT)
    return names


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
