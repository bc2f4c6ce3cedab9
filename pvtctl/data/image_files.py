"""Finds the image files of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

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
