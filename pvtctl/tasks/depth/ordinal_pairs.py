"""Ordinal pairs of depth: two points of an image, and which of them is nearer. People can annotate this."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvtctl.errors import UsageError, nearest

ORDINAL_FILE = "ordinal.csv"
"""At the top of a depth set; about its validation images, which have depth files too."""
_COLUMNS = ("image", "y1", "x1", "y2", "x2", "nearer")
_HINT = f"{ORDINAL_FILE} has the columns {','.join(_COLUMNS)}: pixels from 0, `nearer` is 1 or 2"


def read_ordinal_pairs(root: Path | str, names: Collection[str]) -> dict[str, NDArray[np.int64]]:
    """`ordinal.csv` of a depth set: image -> (P, 5) y, x of a first point, y, x of a second, 1 or -1: the first, or the
    second, is nearer (`pvtctl.tasks.depth.errors.whdr`). Empty without such a file.

    `names` are the images of the split, as named in the file. Raises UsageError naming the wrong line.
    """
    path = Path(root).expanduser() / ORDINAL_FILE
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[int, ...]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise UsageError(f"{path} has no column {missing[0]}", _HINT)
            for row in reader:
                found.setdefault(row["image"], []).append(_pair(row, f"{path}:{reader.line_num}", names))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}", _HINT) from error
    return {name: np.asarray(pairs, np.int64) for name, pairs in found.items()}


def _pair(row: dict[str, str], place: str, names: Collection[str]) -> tuple[int, ...]:
    if row["image"] not in names:
        raise UsageError(f"{place}: no image {row['image']!r} in the split", nearest(str(row["image"]), tuple(names)))
    try:
        points = tuple(int(row[column]) for column in _COLUMNS[1:5])
        sign = {"1": 1, "2": -1}[row["nearer"].strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{place}: not four whole numbers, then 1 or 2", _HINT) from error
    return (*points, sign)


__all__ = ["ORDINAL_FILE", "read_ordinal_pairs"]
