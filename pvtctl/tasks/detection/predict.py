"""A trained detector on images that belong to no data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvtctl.data.transforms import normalize, pad_images
from pvtctl.errors import UsageError
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.structures import Detections, DetectOptions
from pvtctl.tasks.detection.scoring.columns import Columns, columns_of
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.transforms import resize_image, resized_size
from pvtctl.tasks.predict import Images
from pvtctl.weights import load_weights
from pvtctl.weights.describe import DetectorInfo, Inspected


class DetectorUse:
    """A checkpoint's detector, ready for images of any size.

    Attributes: `class_names` (K), `category_ids` (K; COCO's for COCO's classes, else those of the training data, else from
    1 on), `head`, `has_masks`, and `sizes`, the short and long side that images are resized within.
    """

    def __init__(
        self,
        checkpoint: Inspected,
        device: torch.device,
        *,
        options: DetectOptions,
        short_side: int | None = None,
        long_side: int | None = None,
        model: Detector | None = None,
    ) -> None:
        """Sizes that are left open are those that the checkpoint was tested at; `model` is the checkpoint's, where it is
        built already. Raises UsageError for weights that do not fit, and for options that the head does not have."""
        found = checkpoint.detector
        assert found is not None
        self.device = device
        self.options = options
        self.head = found.head
        self.has_masks = found.head == "mask_rcnn"
        names, meta = found.class_names, checkpoint.meta
        self.class_names = names or [f"class {label}" for label in range(found.num_classes)]
        self.category_ids = found.category_ids or list(range(1, found.num_classes + 1))
        tested = DetectionData.from_meta(meta.get("detection"))
        self.sizes = _sides(tested.test_short_side, tested.test_long_side, short_side, long_side)
        self.pad = tested.pad
        self.model = model or _loaded_detector(checkpoint, found, device)

    def __call__(self, pixels: Tensor) -> Detections:
        """uint8 (3, H, W) -> what is in it, in its pixels, on the CPU."""
        original = (int(pixels.shape[1]), int(pixels.shape[2]))
        size = resized_size(original, *self.sizes)
        batch = pad_images([normalize(resize_image(pixels, size))], self.pad)
        with torch.inference_mode():
            (found,) = self.model(batch.to(self.device), [size], None, self.options, [original])
        return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.masks)


def _loaded_detector(checkpoint: Inspected, found: DetectorInfo, device: torch.device) -> Detector:
    model = build_detector(
        checkpoint.backbone,
        found.head,
        num_classes=found.num_classes,
        num_queries=found.num_queries or 100,
        width=found.width,
        conventions=found.conventions,
    )
    load_weights(model, checkpoint.path, class_names=found.class_names)
    return model.to(device).eval()


def _sides(tested_short: int, tested_long: int, short: int | None, long: int | None) -> tuple[int, int]:
    """Short and long side; a short side alone takes the long one along, in the proportion of the tested ones."""
    if short is None:
        short = tested_short if long is None else min(tested_short, long)
    if long is None:
        long = max(short, round(short * tested_long / tested_short))
    if long < short:
        raise UsageError(f"a long side of {long} is shorter than the short side of {short}", "swap them")
    return short, long


def to_columns(found: Detections, image_id: int) -> Columns:
    """The detections of an image as they go into a results file."""
    return columns_of(image_id, found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), found.masks)[0]


def above(found: Detections, score: float) -> Detections:
    """The detections of at least that score."""
    kept = found.scores >= score
    masks = None if found.masks is None else [m for m, keep in zip(found.masks, kept.tolist(), strict=True) if keep]
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept], masks)


def coco_images(images: Images, sizes: Mapping[str, tuple[int, int]], use: DetectorUse) -> dict[str, Any]:
    """What the ids in a results file mean, in COCO's format: the images that were read, and the categories."""
    return {
        "images": [
            {"id": number, "file_name": name, "height": sizes[name][0], "width": sizes[name][1]}
            for number, name in zip(images.ids, images.names, strict=True)
            if name in sizes
        ],
        "annotations": [],
        "categories": [
            {"id": number, "name": name} for number, name in zip(use.category_ids, use.class_names, strict=True)
        ],
    }
