"""A sheet of training samples of a dense task: original images, then augmented views, with their ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pvtctl.data.base import Unusable
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path

_MARGIN = 6
_LINE = 16


def draw_views(
    dataset: Any,
    path: Path | str,
    tile: Callable[[Tensor, Any], Image.Image],
    lying: Callable[[int], tuple[Tensor, Any]],
    *,
    count: int,
    copies: int,
    side: int,
) -> list[str]:
    """Write a PNG with `count` images spread over the split, one a row: the original image, then `copies` views as the
    network is trained on them (of epochs 0, 1, ...), or the one that it is tested on. Tiles are `side` pixels wide at most.

    `lying` reads an image (uint8 (3, H, W)) and its ground truth, `tile` draws both. Returns the drawn ids. Raises
    UsageError if no image can be read, or `path` does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png", "the preview is a PNG: -o preview.png")
    rows: list[tuple[str, list[Image.Image]]] = []
    for at in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist():
        views = [dataset[Draw(epoch, at)] for epoch in range(copies if dataset.training else 1)]
        # in training another image replaces one that cannot be read
        if any(isinstance(view, Unusable) or view.skipped for view in views):
            continue
        first = views[0]
        try:
            original = lying(first.index)
        except (BadImage, OSError):
            continue
        # of a mix, other epochs show other images: only those of the first are its own
        seen = [
            (denormalize(view.image, dataset.normalization), view.target) for view in views if view.index == first.index
        ]
        rows.append((first.id, [tile(pixels, truth) for pixels, truth in (original, *seen)]))
    if not rows:
        raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")
    columns = min(len(tiles) for _, tiles in rows)
    sheet = _sheet([(name, tiles[:columns]) for name, tiles in rows], side, training=dataset.training)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [name for name, _ in rows]


def _sheet(rows: list[tuple[str, list[Image.Image]]], side: int, *, training: bool) -> Image.Image:
    """Rows of tiles, at most `side` pixels wide, each with its name above; the first tile is the original image."""
    columns = len(rows[0][1])
    step = side + _MARGIN
    heights = [max(tile.height for tile in tiles) + _LINE + _MARGIN for _, tiles in rows]
    sheet = Image.new("RGB", (_MARGIN + columns * step, 2 * _MARGIN + _LINE + sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column in range(columns):
        seen = f"training, epoch {column - 1}" if training else "as evaluated"
        pen.text((_MARGIN + column * step, _MARGIN), seen if column else "original", fill="black", font=font)
    top = 2 * _MARGIN + _LINE
    for (name, tiles), height in zip(rows, heights, strict=True):
        pen.text((_MARGIN, top), name, fill="black", font=font)
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (_MARGIN + column * step, top + _LINE))
        top += height
    return sheet


def drawn_in_words(output: Path, ids: list[str], dataset: Any, split: str, copies: int) -> str:
    """Description of a preview's content."""
    views = f"{copies} training views each" if dataset.training else "as evaluated"
    return f"{output}: {len(ids)} of {len(dataset)} {split} images, {views}"
