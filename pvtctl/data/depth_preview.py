"""Draws what a depth network is trained on: each image as it lies, then as training sees it, with its depth below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.coco_preview import preview_sheet
from pvtctl.data.dense import DenseDataset, DenseSample
from pvtctl.data.depth_transforms import resize_depth
from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.files import atomic_path

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
DepthDrawing = Callable[[NDArray[np.float32]], Pixels]
"""Colours metres (H, W), 0 where there is none; what it gives may be larger (`pvtctl.views.depth`)."""


def draw_depth_preview(
    dataset: DenseDataset, path: Path | str, draw: DepthDrawing, *, count: int = 6, copies: int = 3, side: int = 400
) -> list[str]:
    """Write a PNG with `count` images spread over the split, one a row: the image as it lies above its depth, then
    `copies` views as the network is trained on them (of epochs 0, 1, ...), or the one that it is tested on above its truth.
    Each is shrunk to `side` pixels.

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
        # of a mix, other epochs show other images: only those of the first are its own
        own = [sample for sample in samples if sample.index == samples[0].index]
        seen = [(denormalize(sample.image, dataset.normalization), sample.target) for sample in own]
        rows.append((samples[0].id, [_tile(pixels, depth, side, draw) for pixels, depth in (lying, *seen)]))
    if not rows:
        raise UsageError("no image could be read", "`pvtctl data check FOLDER` lists every fault")
    columns = min(len(tiles) for _, tiles in rows)
    sheet = preview_sheet([(name, tiles[:columns]) for name, tiles in rows], side, training=dataset.training)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return [name for name, _ in rows]


def _tile(pixels: Tensor, depth: Tensor, side: int, draw: DepthDrawing) -> Image.Image:
    """uint8 (3, H, W) and its depth -> the image above the coloured depth, whose longer side is `side` pixels."""
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).resize(size[::-1], Image.Resampling.BILINEAR)
    shrunk = resize_depth(depth, size) if _is_dense(depth) else _kept(depth, size)
    below = Image.fromarray(draw(shrunk.numpy()))
    if below.width != image.width:
        below = below.resize((image.width, round(below.height * image.width / below.width)), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (image.width, image.height + below.height), "white")
    tile.paste(image)
    tile.paste(below, (0, image.height))
    return tile


def _is_dense(depth: Tensor) -> bool:
    return bool((depth > 0).float().mean() > 0.25)


def _kept(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Sparse depth at `size`, the farthest value that falls on a pixel: taking the nearest pixel would lose most."""
    return torch.nn.functional.adaptive_max_pool2d(depth[None], size)[0]
