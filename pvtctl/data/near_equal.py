"""Finds pictures of val that are nearly those of train: resized, recompressed, brighter, or the next frame of a video.

A thumbnail of 9x8 pixels of grey is kept of each image. Its difference hash (Krawetz 2013), 64 bits that say whether a
pixel is brighter than its left neighbour, finds candidates, and the thumbnails themselves decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pvtctl.data.images import ReadableImages
from pvtctl.data.preview import check_png, write_rows
from pvtctl.io.names import shown

if TYPE_CHECKING:
    from pvtctl.data.check import Examination

_SIZE = (9, 8)
_BANDS = 8
"""Bytes of a hash: hashes that differ in fewer bits agree in one of them."""
_MOST_DIFFERENT = 2.5
"""Mean difference of two thumbnails, levels of 255, after their means are subtracted."""
_LEAST_CONTRAST = 8.0
"""Standard deviation of a thumbnail below which it says too little."""
_CHUNK = 1 << 20
"""Candidates that are compared at once."""
_DRAWN, _SIDE = 20, 240
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
"""Set bits of each byte."""

Thumbnails = NDArray[np.uint8]
"""(N, 72)."""


def thumbnail_of(image: Image.Image) -> bytes:
    """72 levels of grey, 8 rows of 9, each the mean of its part of an RGB image."""
    return image.resize(_SIZE, Image.Resampling.BOX).convert("L").tobytes()


def near_pairs(val: Thumbnails, train: Thumbnails) -> dict[int, int]:
    """Row of `val` -> the most similar row of `train`, for those that are nearly equal."""
    rows_val, rows_train = (np.flatnonzero(each.std(1) >= _LEAST_CONTRAST) for each in (val, train))
    best: dict[int, tuple[float, int]] = {}
    for one, other, difference in _matches(val[rows_val], train[rows_train]):
        for row, match, apart in zip(one.tolist(), other.tolist(), difference.tolist(), strict=True):
            best[row] = min(best.get(row, (np.inf, 0)), (apart, match))
    return {int(rows_val[row]): int(rows_train[match]) for row, (_, match) in sorted(best.items())}


def _matches(val: Thumbnails, train: Thumbnails) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """(rows of val, rows of train, difference) of nearly equal thumbnails; a pair may come several times."""
    if not len(val) or not len(train):
        return
    hashes_val, hashes_train = _hashes(val), _hashes(train)
    plain_val, plain_train = (each - each.mean(1, keepdims=True, dtype=np.float32) for each in (val, train))
    for band in range(_BANDS):
        keys_val, keys_train = hashes_val[:, band], hashes_train[:, band]
        order = np.argsort(keys_train, kind="stable")
        begin, end = (np.searchsorted(keys_train[order], keys_val, side) for side in ("left", "right"))
        before = np.concatenate([[0], np.cumsum(end - begin)])
        for start in range(0, int(before[-1]), _CHUNK):
            flat = np.arange(start, min(start + _CHUNK, int(before[-1])))
            one = np.searchsorted(before, flat, "right") - 1
            other = order[begin[one] + flat - before[one]]
            close = _ONES[hashes_val[one] ^ hashes_train[other]].sum(1) < _BANDS
            one, other = one[close], other[close]
            difference = np.abs(plain_val[one] - plain_train[other]).mean(1)
            near = difference <= _MOST_DIFFERENT
            yield one[near], other[near], difference[near]


def _hashes(thumbnails: Thumbnails) -> NDArray[np.uint8]:
    """(N, 8): the difference hash of each thumbnail."""
    levels = thumbnails.reshape(-1, _SIZE[1], _SIZE[0])
    return np.packbits((levels[:, :, 1:] > levels[:, :, :-1]).reshape(-1, 64), axis=1)


@dataclass
class _Split:
    source: ReadableImages | None = None
    names: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    thumbnails: bytearray = field(default_factory=bytearray)

    def rows(self) -> Thumbnails:
        return np.frombuffer(bytes(self.thumbnails), np.uint8).reshape(-1, _SIZE[0] * _SIZE[1])

    def tile(self, row: int) -> Image.Image:
        assert self.source is not None
        image = Image.open(BytesIO(self.source.read(self.indices[row]))).convert("RGB")
        image.thumbnail((_SIDE, _SIDE))
        return image


class NearEqual:
    """Collects thumbnails by split, and finds and draws the pictures of val that train has too."""

    def __init__(self) -> None:
        self._splits: dict[str, _Split] = defaultdict(_Split)

    def add(self, split: str, name: str, seen: Examination, source: ReadableImages) -> None:
        """Keep an examined image, if it could be decoded."""
        if seen.thumbnail:
            own = self._splits[split]
            own.source = source
            own.names.append(name)
            own.indices.append(seen.index)
            own.digests.append(seen.digest)
            own.thumbnails += seen.thumbnail

    def pairs(self) -> list[tuple[int, int]]:
        """(row of val, row of train) of nearly equal images, without those of equal bytes."""
        val, train = self._splits["val"], self._splits["train"]
        same = set(train.digests)
        found = near_pairs(val.rows(), train.rows()).items()
        return [(one, other) for one, other in found if val.digests[one] not in same]

    def in_words(self, pair: tuple[int, int]) -> str:
        """`NAME ~ train/NAME`."""
        return f"{self._splits['val'].names[pair[0]]} ~ train/{self._splits['train'].names[pair[1]]}"

    def draw(self, path: Path, pairs: list[tuple[int, int]]) -> None:
        """Write a PNG of the first pairs, spread over all: val on the left, train on the right."""
        check_png(path)
        val, train = self._splits["val"], self._splits["train"]
        some = [pairs[at * len(pairs) // min(_DRAWN, len(pairs))] for at in range(min(_DRAWN, len(pairs)))]
        rows = [(shown(self.in_words(pair), most=70), [val.tile(pair[0]), train.tile(pair[1])]) for pair in some]
        write_rows(path, rows, ["val", "train"], _SIDE)
