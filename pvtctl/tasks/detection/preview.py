"""Draws training samples of detection: each original image, then augmented views, with boxes, labels and masks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pvtctl.data.images import to_rgb
from pvtctl.data.preview import draw_views, drawn_in_words
from pvtctl.data.survey import as_in_training
from pvtctl.errors import UsageError
from pvtctl.models.structures import Objects
from pvtctl.tasks.base import PreviewRequest
from pvtctl.tasks.detection.data import DetectionDataset, open_detection_split
from pvtctl.tasks.detection.pictures import draw_detections
from pvtctl.tasks.detection.spec import DETECTION
from pvtctl.tasks.detection.transforms import resize_masks
from pvtctl.tasks.reading import reading_of_data


def draw_detection_preview(
    dataset: DetectionDataset, path: Path | str, *, count: int = 6, copies: int = 3, side: int = 400
) -> list[str]:
    """Write a PNG of images, of augmented views, and of their boxes and masks: see `draw_views`."""

    def tile(pixels: Tensor, objects: Objects) -> Image.Image:
        return objects_tile(pixels, objects, dataset.class_names, side)

    def lying(index: int) -> tuple[Tensor, Objects]:
        return torch.from_numpy(dataset.original(index)).permute(2, 0, 1), dataset.truth(index)

    return draw_views(dataset, path, tile, lying, count=count, copies=copies, side=side)


def objects_tile(pixels: Tensor, objects: Objects, class_names: list[str], side: int) -> Image.Image:
    """uint8 (3, H, W) and its objects -> a picture whose longer side is `side` pixels."""
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(to_rgb(pixels)).resize(size, Image.Resampling.BILINEAR)
    # resized before drawing, so that names and lines stay sharp
    masks = None if objects.masks is None else resize_masks(objects.masks, size[::-1])
    shown = Objects(objects.boxes * scale, objects.labels, masks)
    picture = Image.fromarray(draw_detections(np.asarray(image), shown, class_names))
    return picture if max(picture.size) <= side else picture.resize(size, Image.Resampling.LANCZOS)


def preview_detection(request: PreviewRequest) -> str:
    """`pvtctl data preview` of a detection set, with its masks if any; returns a description."""
    split, copies, side = request.split, request.copies or 3, request.size or 400

    def opened(with_masks: bool, split: str) -> DetectionDataset:
        return open_detection_split(
            request.name,
            request.root,
            split,
            settings=request.data.detection,
            training=split == "train",
            with_masks=with_masks,
            seed=request.seed,
            samples=request.count if request.name == "scenes" else None,
            image_size=side,
            reading=reading_of_data(request.data, DETECTION),
        )

    try:
        dataset = as_in_training(partial(opened, True), split)
    except UsageError:  # only boxes, or an error that will be raised again
        dataset = as_in_training(partial(opened, False), split)
    ids = draw_detection_preview(dataset, request.output, count=request.count, copies=copies, side=side)
    return drawn_in_words(request.output, ids, dataset, split, copies)
