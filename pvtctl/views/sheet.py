"""Contact sheets of titled pictures, and common code of drawn images: captions, fonts, enlargement."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Colour = tuple[int, int, int]

_SMALLEST = 400
"""Images with a shorter long side are enlarged by an integer factor, as a label would cover most of them."""


def draw_sheet(path: Path | str, tiles: Mapping[str, Pixels], *, columns: int = 2, width: int = 640) -> Path:
    """Write `sheet_of` the titled pictures as a PNG or SVG."""
    return write_picture(path, sheet_of(tiles, columns=columns, width=width))


def sheet_of(tiles: Mapping[str, Pixels], *, columns: int = 2, width: int = 640) -> Pixels:
    """Arrange titled pictures in `columns` columns, each resized to `width` pixels."""
    cells = []
    for title, tile in tiles.items():
        height = max(1, round(tile.shape[0] * width / tile.shape[1]))
        resized = Image.fromarray(tile).resize((width, height), Image.Resampling.LANCZOS)
        cells.append(captioned(np.asarray(resized), title))
    if not cells:
        cells.append(captioned(np.full((1, width, 3), 255, np.uint8), "no images"))
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    gap = 10
    across = min(columns, len(cells))
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    sheet = Image.new("RGB", (across * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), "white")
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for at, cell in enumerate(row):
            sheet.paste(Image.fromarray(cell), (gap + at * (width + gap), y))
        y += height + gap
    return np.asarray(sheet)


def write_picture(path: Path | str, pixels: Pixels) -> Path:
    """Write a PNG, or an SVG that contains it, by the path's suffix. Raises UsageError for other suffixes."""
    path = Path(path)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, format="PNG", compress_level=4)  # half the time of 6, 6 % larger
    match path.suffix.lower():
        case ".png":
            data = picture.getvalue()
        case ".svg":
            height, width = pixels.shape[:2]
            size = f'width="{width}" height="{height}"'
            inside = base64.b64encode(picture.getvalue()).decode()
            data = (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">'
                f'<image {size} href="data:image/png;base64,{inside}"/></svg>\n'
            ).encode()
        case _:
            raise UsageError(f"cannot write a picture as {path.name}", "the name must end in .png or .svg")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def enlargement(image: Pixels) -> int:
    """The integer factor by which a small image is enlarged."""
    return max(1, math.ceil(_SMALLEST / max(image.shape[:2])))


def enlarged(image: Pixels, scale: int) -> Pixels:
    """Enlarge each pixel to `scale` x `scale` pixels."""
    return image if scale == 1 else np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)


def captioned(image: Pixels, text: str) -> Pixels:
    """The picture under a line of text, which is shrunk to fit."""
    size = min(max(14, round(image.shape[1] / 40)), 22)
    strip = Image.new("RGB", (image.shape[1], round(1.6 * size)), "white")
    pen = ImageDraw.Draw(strip)
    fitted = size
    while fitted > 8 and pen.textlength(text, font=font_of(fitted)) > image.shape[1] - 4:
        fitted -= 1
    pen.text((2, strip.height / 2), text, fill="black", font=font_of(fitted), anchor="lm")
    return np.concatenate([np.asarray(strip), image], axis=0)


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font bundled with matplotlib, which has most alphabets."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
