"""A trained model on images that belong to no data set: which images, how they are read, and what the model says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pvtctl.backbones import Classifier, build_classifier
from pvtctl.data.detection import pad_images
from pvtctl.data.detection_transforms import resize_image, resized_size
from pvtctl.data.imagenet import SUFFIXES, images_below
from pvtctl.data.images import EncodedPicture, decode, open_image, pixels_of
from pvtctl.data.transforms import EvalTransform, normalize
from pvtctl.detectors import Detector, build_detector
from pvtctl.errors import UsageError
from pvtctl.metrics.coco_columns import Columns, columns_of
from pvtctl.recipe.schema import DetectionData
from pvtctl.structures import Detections, DetectOptions
from pvtctl.tasks.checkpoints import Inspected
from pvtctl.weights import load_weights

TOP = 5
"""Classes that a classifier names for an image."""
_COCO_NAME = re.compile(r"\d{12}")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Images:
    """The images to predict, in the order of their names, numbers in them by value: frame2 before frame10."""

    folder: Path
    """That all of them lie below."""
    names: list[str]
    """Relative to it."""
    ids: list[int]
    """COCO's image ids where every file is named by one (000000000139.jpg), else 1, 2, 3 ..."""


def find_images(words: Sequence[str]) -> Images:
    """Files, folders (with the folders in them) and patterns -> images. Of a folder, what is no image by its suffix is
    left out.

    Raises UsageError when one of the words stands for nothing.
    """
    found: dict[Path, None] = {}
    for word in words:
        found |= dict.fromkeys(path.absolute() for path in _images_of(word))
    folder = Path(os.path.commonpath([path.parent for path in found]))
    names = sorted((path.relative_to(folder).as_posix() for path in found), key=_by_value)
    stems = {Path(name).stem for name in names}
    if len(stems) == len(names) and all(_COCO_NAME.fullmatch(stem) for stem in stems):
        return Images(folder, names, [int(Path(name).stem) for name in names])
    return Images(folder, names, list(range(1, len(names) + 1)))


def _images_of(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        if inside := images_below(path):
            return [path / name for name in inside]
        raise UsageError(f"no image in the folder {word}", f"images are files that end in {', '.join(SUFFIXES)}")
    root = Path(path.anchor)
    matches = [match for match in root.glob(str(path.relative_to(root))) if match.is_file()]
    if not matches:
        raise UsageError(
            f"no file or folder {word}", "name images, a folder of them, or a pattern such as 'photos/*.jpg'"
        )
    return matches


def _by_value(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_pixels(path: Path) -> tuple[Tensor, bool]:
    """uint8 (3, H, W) of an image file, and whether it asks to be turned (EXIF), which is not done: training does not.

    Raises BadImage, OSError.
    """
    image = open_image(path.read_bytes())
    turned = image.getexif().get(_ORIENTATION, 1) != 1
    return pixels_of(decode(image)), turned


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
    ) -> None:
        """Sizes that are left open are those that the checkpoint was tested at. Raises UsageError for weights that do
        not fit, and for options that the head does not have."""
        found = checkpoint.detector
        assert found is not None
        self.device = device
        self.options = options
        self.head = found.head
        self.has_masks = found.head == "mask_rcnn"
        names, meta = found.class_names, checkpoint.meta
        self.class_names = names or [f"class {label}" for label in range(found.num_classes)]
        self.category_ids = found.category_ids or list(range(1, found.num_classes + 1))
        tested = {**DetectionData().model_dump(), **(meta.get("detection") or {})}
        self.sizes = _sides(tested["test_short_side"], tested["test_long_side"], short_side, long_side)
        self.pad = tested["pad"]
        self.model: Detector = build_detector(
            checkpoint.backbone,
            found.head,
            num_classes=found.num_classes,
            num_queries=found.num_queries or 100,
            conventions=found.conventions,
        )
        load_weights(self.model, checkpoint.path, class_names=names)
        self.model.to(device).eval()

    def __call__(self, pixels: Tensor) -> Detections:
        """uint8 (3, H, W) -> what is in it, in its pixels, on the CPU."""
        original = (int(pixels.shape[1]), int(pixels.shape[2]))
        size = resized_size(original, *self.sizes)
        batch = pad_images([normalize(resize_image(pixels, size))], self.pad)
        with torch.inference_mode():
            (found,) = self.model(batch.to(self.device), [size], None, self.options, [original])
        return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), found.masks)


def _sides(tested_short: int, tested_long: int, short: int | None, long: int | None) -> tuple[int, int]:
    """Short and long side; a short side alone takes the long one along, in the proportion of the tested ones."""
    if short is None:
        short = tested_short if long is None else min(tested_short, long)
    if long is None:
        long = max(short, round(short * tested_long / tested_short))
    if long < short:
        raise UsageError(f"a long side of {long} is shorter than the short side of {short}", "swap them")
    return short, long


class ClassifierUse:
    """A checkpoint's classifier; `class_names` (K)."""

    def __init__(self, checkpoint: Inspected, device: torch.device) -> None:
        """Raises UsageError for weights that do not fit."""
        assert checkpoint.head is not None
        classes = checkpoint.head.num_classes
        self.device = device
        self.class_names = checkpoint.head.names or [f"class {label}" for label in range(classes)]
        size = checkpoint.meta.get("image_size", 224)
        self.transform = EvalTransform(size, checkpoint.meta.get("resize", round(size * 256 / 224)))
        self.model: Classifier = build_classifier(checkpoint.backbone, num_classes=classes, image_size=size)
        load_weights(self.model, checkpoint.path, class_names=checkpoint.head.names)
        self.model.to(device).eval()

    def __call__(self, path: Path) -> list[tuple[str, float]]:
        """The likeliest classes of an image file, at most 5, with their probabilities. Raises BadImage, OSError."""
        image = self.transform(EncodedPicture(path.read_bytes()))
        with torch.inference_mode():
            probabilities = self.model(image[None].to(self.device))[0].softmax(0).cpu()
        best = probabilities.topk(min(TOP, len(probabilities)))
        return [
            (self.class_names[label], score)
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def to_columns(found: Detections, image_id: int) -> Columns:
    """The detections of an image as they go into a results file."""
    return columns_of(image_id, found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), found.masks)[0]


def above(found: Detections, score: float) -> Detections:
    """The detections of at least that score."""
    kept = found.scores >= score
    masks = None if found.masks is None else [m for m, keep in zip(found.masks, kept.tolist(), strict=True) if keep]
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept], masks)


def save_picture(pixels: Any, path: Path) -> None:
    """Write uint8 (H, W, 3) RGB as JPEG where `path` ends so, else as PNG, replacing `path` in one step."""
    from pvtctl.files import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            Image.fromarray(pixels).save(temporary, format="JPEG", quality=92)
        else:
            Image.fromarray(pixels).save(temporary, format="PNG")


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
