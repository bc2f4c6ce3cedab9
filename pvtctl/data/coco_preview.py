"""Draws what a detector is trained on: each image as it lies, then as training sees it, with boxes, labels and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pvtctl.data.detection import DetectionDataset, DetectionSample
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.files import atomic_path
from pvtctl.structures import Objects

_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
"""Okabe and Ito's, which people with any colour vision tell apart. Labels share them in turn; the names are written."""

_MARGIN = 6
_LINE = 16
_MASK = 0.45
"""Share of the colour over a masked pixel."""


def draw_detection_preview(
    dataset: DetectionDataset, path: Path | str, *, count: int = 6, copies: int = 3, side: int = 320
) -> list[str]:
    """Write a PNG with `count` images spread over the split, one a row: the image as it lies, then `copies` views as the
    network sees them (of epochs 0, 1, ...; one, resized, for an evaluation split). Each is shrunk to `side` pixels.

    Returns the ids drawn. Raises UsageError when no image can be read, or `path` does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png", "the preview is a PNG: -o preview.png")
    rows: list[tuple[str, list[Image.Image]]] = []
    for at in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist():
        views = [dataset[Draw(epoch, at)] for epoch in range(copies if dataset.training else 1)]
        # in training another image stands in for one that cannot be read
        samples = [view for view in views if isinstance(view, DetectionSample) and not view.skipped]
        if len(samples) != len(views):
            continue
        try:
            original = torch.from_numpy(dataset.original(at)).permute(2, 0, 1)
        except (BadImage, OSError):
            continue
        tiles = [draw_objects(original, dataset.truth(at), dataset.class_names, side)]
        tiles += [
            draw_objects(denormalize(sample.image), sample.target, dataset.class_names, side) for sample in samples
        ]
        rows.append((samples[0].id, tiles))
    if not rows:
        raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")
    sheet = _sheet(rows, side, dataset.training)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [name for name, _ in rows]


def draw_objects(pixels: Tensor, objects: Objects, class_names: list[str], side: int) -> Image.Image:
    """uint8 (3, H, W) and what is in it -> a picture whose longer side is `side` pixels."""
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).resize(size, Image.Resampling.BILINEAR)
    labels = objects.labels.tolist()
    if objects.masks is not None:
        for mask, label in zip(objects.masks, labels, strict=True):
            shape = Image.fromarray(mask.numpy().astype(np.uint8) * round(255 * _MASK)).resize(size)
            image.paste(Image.new("RGB", size, _colour(label)), mask=shape)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=10)
    written: list[tuple[float, float, float, float]] = []
    for box, label in zip((objects.boxes * scale).tolist(), labels, strict=True):
        x0, y0, x1, y1 = box
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_colour(label), width=2)
        corner = (x0, max(0.0, y0 - 11))
        left, top, right, bottom = place = pen.textbbox(corner, class_names[label], font=font)
        if any(left < r and x < right and top < b and y < bottom for x, y, r, b in written):
            continue  # one name over another says neither; the colour is still told
        written.append(place)
        pen.rectangle(place, fill="white")  # readable over any image
        pen.text(corner, class_names[label], fill="black", font=font)
    return image


def _colour(label: int) -> tuple[int, int, int]:
    return _COLOURS[label % len(_COLOURS)]


def _sheet(rows: list[tuple[str, list[Image.Image]]], side: int, training: bool) -> Image.Image:
    columns = len(rows[0][1])
    step = side + _MARGIN
    heights = [max(tile.height for tile in tiles) + _LINE + _MARGIN for _, tiles in rows]
    sheet = Image.new("RGB", (_MARGIN + columns * step, 2 * _MARGIN + _LINE + sum(heights)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column in range(columns):
        seen = f"training, epoch {column - 1}" if training else "as evaluated"
        pen.text((_MARGIN + column * step, _MARGIN), seen if column else "as it lies", fill="black", font=font)
    top = 2 * _MARGIN + _LINE
    for (name, tiles), height in zip(rows, heights, strict=True):
        pen.text((_MARGIN, top), name, fill="black", font=font)
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (_MARGIN + column * step, top + _LINE))
        top += height
    return sheet
