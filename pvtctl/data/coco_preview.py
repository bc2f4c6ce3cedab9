"""Draws what a detector is trained on: each image as it lies, then as training sees it, with boxes, labels and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from pvtctl.data.detection import DetectionDataset, DetectionSample
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.files import atomic_path
from pvtctl.structures import Objects

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Drawing = Callable[[Pixels, Objects, Sequence[str]], Pixels]
"""Draws objects, in pixels of the picture, under their class names; what it gives may be larger (`pvtctl.views`)."""

_MARGIN = 6
_LINE = 16


def draw_detection_preview(
    dataset: DetectionDataset, path: Path | str, draw: Drawing, *, count: int = 6, copies: int = 3, side: int = 400
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
        tiles = [_tile(original, dataset.truth(at), dataset.class_names, side, draw)]
        tiles += [
            _tile(denormalize(sample.image), sample.target, dataset.class_names, side, draw) for sample in samples
        ]
        rows.append((samples[0].id, tiles))
    if not rows:
        raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")
    sheet = preview_sheet(rows, side, training=dataset.training)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [name for name, _ in rows]


def _tile(pixels: Tensor, objects: Objects, class_names: list[str], side: int, draw: Drawing) -> Image.Image:
    """uint8 (3, H, W) and what is in it -> a picture whose longer side is `side` pixels."""
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).resize(size, Image.Resampling.BILINEAR)
    masks = None
    if objects.masks is not None:  # shrunk before they are drawn, so that names and lines stay sharp
        # float, as nearest neighbours of bool are not made; every pixel is one of the mask's own
        masks = functional.interpolate(objects.masks[None].float(), size[::-1], mode="nearest")[0] > 0
    shown = Objects(objects.boxes * scale, objects.labels, masks)
    picture = Image.fromarray(draw(np.asarray(image), shown, class_names))
    return picture if max(picture.size) <= side else picture.resize(size, Image.Resampling.LANCZOS)


def preview_sheet(rows: list[tuple[str, list[Image.Image]]], side: int, *, training: bool) -> Image.Image:
    """Rows of tiles, at most `side` pixels wide, under a name each; the first tile is the image as it lies."""
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
