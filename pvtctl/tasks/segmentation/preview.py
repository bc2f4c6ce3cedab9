"""Draws training samples of segmentation: each original image, then augmented views, with overlaid labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.preview import draw_views, drawn_in_words
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.segmentation.data import open_segmentation_split
from pvtctl.tasks.segmentation.transforms import resize_labels

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
LabelDrawing = Callable[[Pixels, NDArray[np.uint8]], Pixels]
"""Lays labels (H, W) over an image; the result may have another size (`pvtctl.views`)."""


def draw_segmentation_preview(
    dataset: DenseDataset, path: Path | str, draw: LabelDrawing, *, count: int = 6, copies: int = 3, side: int = 480
) -> list[str]:
    """Write a PNG of images and of augmented views, each with its labels over it: see `draw_views`."""
    return draw_views(
        dataset,
        path,
        lambda pixels, labels: labels_tile(pixels, labels, side, draw),
        dataset.read,
        count=count,
        copies=copies,
        side=side,
    )


def labels_tile(pixels: Tensor, labels: Tensor, side: int, draw: LabelDrawing) -> Image.Image:
    """uint8 (3, H, W) and its labels -> a picture `side` pixels wide."""
    labels = resize_labels(
        labels, (pixels.shape[-2], pixels.shape[-1])
    )  # in evaluation the labels have the original size
    drawn = Image.fromarray(draw(pixels.permute(1, 2, 0).contiguous().numpy(), labels.contiguous().numpy()))
    height = max(1, round(drawn.height * side / drawn.width))
    return drawn.resize((side, height), Image.Resampling.LANCZOS)


def drawing_of(split: DenseDataset) -> LabelDrawing:
    """Function that overlays labels in the colours of a split's classes, with their names."""
    from pvtctl.tasks.segmentation.pictures import draw_label_overlay
    from pvtctl.views.class_colours import class_colours

    names = split.class_names
    colours = class_colours(len(names), split.source.palette)
    return lambda image, labels: draw_label_overlay(image, labels, names, colours)


def preview_segmentation(request: PreviewRequest) -> str:
    """`pvtctl data preview` of a set; returns a description."""
    name, split, copies, side = request.name, request.split, request.copies or 3, request.size or 400
    dataset = open_segmentation_split(
        name,
        request.root,
        split,
        settings=request.data.segmentation,
        training=split == "train",
        normalization=request.data.normalization,
        seed=request.seed,
        samples=request.count if name == "scenes" else None,
        image_size=request.data.image_size,
    )
    ids = draw_segmentation_preview(
        dataset, request.output, drawing_of(dataset), count=request.count, copies=copies, side=side
    )
    return drawn_in_words(request.output, ids, dataset, split, copies)
