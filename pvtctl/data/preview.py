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
from pvtctl.io.names import plural

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
    check_png(path)
    rows: list[tuple[str, list[Image.Image]]] = []
    for at in spread(len(dataset), count):
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
    titles = [f"training, epoch {epoch}" if dataset.training else "as evaluated" for epoch in range(columns - 1)]
    write_rows(path, [(name, tiles[:columns]) for name, tiles in rows], ["original", *titles], side)
    return [name for name, _ in rows]


def check_png(path: Path | str) -> None:
    """Raises UsageError for the path of a preview that does not end in .png."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png", "the preview is a PNG: -o preview.png")


def spread(total: int, count: int) -> list[int]:
    """At most `count` of `total` positions, evenly spread."""
    places: list[int] = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    return places


def write_rows(path: Path | str, rows: list[tuple[str, list[Image.Image]]], heads: list[str], side: int) -> None:
    """Write a PNG of rows of tiles, at most `side` pixels wide, each row under its name, the columns under `heads`."""
    columns, step = len(heads), side + _MARGIN
    heights = [max(tile.height for tile in tiles) + _LINE + _MARGIN for _, tiles in rows]
    sheet = Image.new("RGB", (_MARGIN + columns * step, 2 * _MARGIN + _LINE + sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, head in enumerate(heads):
        pen.text((_MARGIN + column * step, _MARGIN), head, fill="black", font=font)
    top = 2 * _MARGIN + _LINE
    for (name, tiles), height in zip(rows, heights, strict=True):
        pen.text((_MARGIN, top), name, fill="black", font=font)
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (_MARGIN + column * step, top + _LINE))
        top += height
    with atomic_path(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")


def drawn_in_words(output: Path, ids: list[str], dataset: Any, split: str, copies: int) -> str:
    """Description of a preview's content."""
    views = f"{plural(copies, 'training view')} each" if dataset.training else "as evaluated"
    return f"{output}: {len(ids)} of {plural(len(dataset), f'{split} image')}, {views}"
