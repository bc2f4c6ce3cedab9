"""Draws what a segmentation network is trained on: each image as it lies, then as training sees it, under its labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.coco_preview import preview_sheet
from pvtctl.data.dense import DenseDataset, DenseSample
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.data.segmentation_transforms import resize_labels
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.files import atomic_path

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
LabelDrawing = Callable[[Pixels, NDArray[np.uint8]], Pixels]
"""Lays labels (H, W) over an image; what it gives may be of another size (`pvtctl.views`)."""


def draw_segmentation_preview(
    dataset: DenseDataset, path: Path | str, draw: LabelDrawing, *, count: int = 6, copies: int = 3, side: int = 480
) -> list[str]:
    """Write a PNG with `count` images spread over the split, one a row: the image as it lies under its labels, then
    `copies` views as the network is trained on them (of epochs 0, 1, ...), or the one that it is tested on. Each is
    `side` pixels wide.

    Returns the ids drawn. Raises UsageError when no image can be read, or `path` does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png", "the preview is a PNG: -o preview.png")
    rows: list[tuple[str, list[Image.Image]]] = []
    for at in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist():
        views = [dataset[Draw(epoch, at)] for epoch in range(copies if dataset.training else 1)]
        # in training another image stands in for one that cannot be read
        samples = [view for view in views if isinstance(view, DenseSample) and not view.skipped]
        if len(samples) != len(views):
            continue
        try:
            lying = dataset.read(samples[0].index)
        except (BadImage, OSError):
            continue
        seen = [(denormalize(sample.image, dataset.normalization), sample.target) for sample in samples]
        rows.append((samples[0].id, [_tile(pixels, labels, side, draw) for pixels, labels in (lying, *seen)]))
    if not rows:
        raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")
    sheet = preview_sheet(rows, side, training=dataset.training)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [name for name, _ in rows]


def _tile(pixels: Tensor, labels: Tensor, side: int, draw: LabelDrawing) -> Image.Image:
    labels = resize_labels(labels, (pixels.shape[-2], pixels.shape[-1]))  # in evaluation they are those of the original
    drawn = Image.fromarray(draw(pixels.permute(1, 2, 0).contiguous().numpy(), labels.contiguous().numpy()))
    height = max(1, round(drawn.height * side / drawn.width))
    return drawn.resize((side, height), Image.Resampling.LANCZOS)
