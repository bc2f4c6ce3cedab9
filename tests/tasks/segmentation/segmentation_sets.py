"""Writes tiny sets of images and label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FOUR = "sky\nroad\ncar\nvoid\n"


def photo(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """(H, W, 3) smooth random colours; `size` is (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def stripes(values: list[int], size: tuple[int, int] = (40, 56), dtype: type = np.uint8) -> np.ndarray:
    """(H, W): columns of equal width, one a value."""
    columns = np.arange(size[1]) * len(values) // size[1]
    return np.broadcast_to(np.array(values, dtype)[columns], size).copy()


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def mask_set(root: Path, masks: dict[str, list[np.ndarray]], classes: str | None = FOUR) -> Path:
    """A folder in the layout of `masks`; every image is another one, of its mask's size."""
    for at, (split, maps) in enumerate(masks.items()):
        for number, labels in enumerate(maps):
            write(root / "images" / split / f"{number:03d}.jpg", photo(100 * at + number, labels.shape[:2]))
            write(root / "annotations" / split / f"{number:03d}.png", labels)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root
