"""Finds the image files of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from pvtctl.io.console import say
from pvtctl.io.foreign import reason_of

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
"""Files with these endings (in any case) are images; others are ignored."""


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


def is_file(path: Path) -> bool:
    """Whether a file exists; never raises, also where the system refuses a name, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def images_below(folder: Path) -> list[str]:
    """Sorted paths of the images below a class folder, relative to it; what is no file is left out, and so is a folder that
    cannot be read, with a warning.
    """
    found, ahead = [], [""]
    while ahead:  # not walk_files, which takes five times as long for the names of ImageNet
        inside = ahead.pop()
        try:
            with os.scandir(f"{folder}/{inside}") as listed:
                entries = list(listed)
        except OSError as error:
            say(f"warning: {folder}/{inside} {reason_of(error)}; the images in it are left out")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                ahead.append(f"{inside}{entry.name}/")
            elif entry.name.lower().endswith(SUFFIXES):
                with suppress(OSError):  # else a link to itself would hide the entries after it
                    if entry.is_file():
                        found.append(f"{inside}{entry.name}")
    return sorted(found)
