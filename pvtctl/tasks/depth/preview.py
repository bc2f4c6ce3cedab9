"""Draws training samples of depth: each original image, then augmented views, with the depth below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.preview import draw_views, drawn_in_words
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.depth.transforms import resize_depth

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
DepthDrawing = Callable[[NDArray[np.float32]], Pixels]
"""Colours metres (H, W), 0 for no depth; the result may be larger (`pvtctl.tasks.depth.pictures`)."""


def draw_depth_preview(
    dataset: DenseDataset, path: Path | str, draw: DepthDrawing, *, count: int = 6, copies: int = 3, side: int = 400
) -> list[str]:
    """Write a PNG of images and of augmented views, each with its depth below: see `draw_views`."""
    return draw_views(
        dataset,
        path,
        lambda pixels, depth: depth_tile(pixels, depth, side, draw),
        dataset.read,
        count=count,
        copies=copies,
        side=side,
    )


def depth_tile(pixels: Tensor, depth: Tensor, side: int, draw: DepthDrawing) -> Image.Image:
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
    """Sparse depth at `size`, the farthest value that falls on a pixel: nearest sampling would lose most."""
    return torch.nn.functional.adaptive_max_pool2d(depth[None], size)[0]


def draw_metres(metres: NDArray[np.float32]) -> Pixels:
    """Colours depth in metres (H, W)."""
    from pvtctl.tasks.depth.pictures import draw_depth

    return draw_depth(metres, "metres")


def preview_depth(request: PreviewRequest) -> str:
    """`pvtctl data preview` of a set; returns a description."""
    name, split, copies, side = request.name, request.split, request.copies or 3, request.size or 400
    dataset = open_depth_split(
        name,
        request.root,
        split,
        settings=request.data.depth,
        training=split == "train",
        normalization=request.data.normalization,
        seed=request.seed,
        samples=request.count if name == "scenes" else None,
        image_size=request.data.image_size,
    )
    ids = draw_depth_preview(dataset, request.output, draw_metres, count=request.count, copies=copies, side=side)
    return drawn_in_words(request.output, ids, dataset, split, copies)
