"""Tiny data sets in the ImageNet layout."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(
    seed: int = 0, size: tuple[int, int] = (48, 40), mode: str = "RGB", format: str = "JPEG", **options
) -> bytes:
    """An image file of smooth random colours; `size` is (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def giant_png() -> bytes:
    """The header of a 20000x20000 PNG, with nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """`make_set(classes, train=n, val=m)` writes so many images a class, all different, and returns the root."""

    def make(
        classes: Sequence[str] = ("n01440764", "n01443537"), train: int = 4, val: int = 2, name: str = "set"
    ) -> Path:
        seed = 0
        for split, count in (("train", train), ("val", val)):
            for wnid in classes if count else ():
                folder = tmp_path / name / split / wnid
                folder.mkdir(parents=True)
                for number in range(count):
                    seed += 1
                    (folder / f"{wnid}_{number:03d}.JPEG").write_bytes(encoded(seed))
        return tmp_path / name

    return make
