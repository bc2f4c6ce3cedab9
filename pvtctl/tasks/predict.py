"""A trained model on images that belong to no data set: which images, how they are read, and what the model says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.backbones import Classifier, build_classifier
from pvtctl.data.detection import pad_images
from pvtctl.data.detection_transforms import resize_image, resized_size
from pvtctl.data.imagenet import SUFFIXES, images_below
from pvtctl.data.images import BadImage, TensorPicture, decode, open_image, pixels_of
from pvtctl.data.transforms import EvalTransform, normalize
from pvtctl.detectors import Detector, build_detector
from pvtctl.errors import UsageError
from pvtctl.metrics.coco_columns import Columns, columns_of
from pvtctl.recipe.schema import DetectionData
from pvtctl.structures import Detections, DetectOptions
from pvtctl.tasks.checkpoints import DetectorInfo, Inspected
from pvtctl.weights import load_weights

TOP = 5
"""Classes that a classifier names for an image."""
READ_BY = {
    "score_threshold": ("detection",),
    "nms_iou": ("detection",),
    "max_detections": ("detection",),
    "short_side": ("detection", "segmentation"),
    "long_side": ("detection", "segmentation"),
    "size": ("depth",),
    "ratios": ("segmentation", "depth"),
    "flip": ("segmentation", "depth"),
    "window": ("segmentation",),
    "stride": ("segmentation",),
    "scale_shift": ("depth",),
}
"""Which tasks read an option of a prediction."""
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


ImageLike = str | Path | Image.Image | Tensor | NDArray[Any]
"""An image: a file, or its pixels."""


def to_pixels(image: ImageLike) -> Tensor:
    """uint8 (3, H, W) of an image: a file's path, a PIL image, a tensor (3, H, W) or an array (H, W, 3).

    Tensors and arrays hold uint8, or floats from 0 to 1, and are not normalised. Raises UsageError for what is no image.
    """
    if isinstance(image, str | Path):
        try:
            return read_pixels(Path(image).expanduser())[0]
        except (BadImage, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{image} cannot be read: {reason}", "name an image file") from error
    if isinstance(image, Image.Image):
        try:
            return pixels_of(decode(image.copy()))
        except BadImage as error:
            raise UsageError(f"the image cannot be read: {error}", "give one that can be opened") from error
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"an array of shape {image.shape} is no image", "an image is an array (H, W, 3)")
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    elif isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            hint = "an image is a tensor (3, H, W); of a batch, give list(batch)"
            raise UsageError(f"a tensor of shape {tuple(image.shape)} is no image", hint)
        pixels = image.detach().cpu()
    else:
        raise UsageError(f"a {type(image).__name__} is no image", "a path, a PIL image, a tensor or an array")
    return _to_uint8(pixels)


def _to_uint8(pixels: Tensor) -> Tensor:
    if 0 in pixels.shape:
        raise UsageError(f"an image of {pixels.shape[1]}x{pixels.shape[2]} pixels is none", "give one with pixels")
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UsageError(f"pixels of type {pixels.dtype} are not known", "uint8, or floats from 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # NaN is none of both
        raise UsageError(
            f"pixels of {low:.3g} to {high:.3g} are no image's", "floats from 0 to 1 (do not normalise them), or uint8"
        )
    return (pixels * 255).round().to(torch.uint8)


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
        tested = {**DetectionData().model_dump(), **(meta.get("detection") or {})}
        self.sizes = _sides(tested["test_short_side"], tested["test_long_side"], short_side, long_side)
        self.pad = tested["pad"]
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


class ClassifierUse:
    """A checkpoint's classifier; `class_names` (K)."""

    def __init__(self, checkpoint: Inspected, device: torch.device, model: Classifier | None = None) -> None:
        """`model` is the checkpoint's, where it is built already. Raises UsageError for weights that do not fit."""
        assert checkpoint.head is not None
        classes = checkpoint.head.num_classes
        self.device = device
        self.class_names = checkpoint.head.names or [f"class {label}" for label in range(classes)]
        size = checkpoint.meta.get("image_size", 224)
        self.transform = EvalTransform(size, checkpoint.meta.get("resize", round(size * 256 / 224)))
        if model is None:
            model = build_classifier(checkpoint.backbone, num_classes=classes, image_size=size)
            load_weights(model, checkpoint.path, class_names=checkpoint.head.names)
        self.model = model.to(device).eval()

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (3, H, W) -> float32 probabilities (K,), on the CPU."""
        image = self.transform(TensorPicture(pixels))
        with torch.inference_mode():
            return self.model(image[None].to(self.device))[0].float().softmax(0).cpu()


def likeliest(probabilities: Tensor, class_names: Sequence[str], count: int = TOP) -> list[tuple[str, float]]:
    """The `count` likeliest classes of (K,) probabilities, best first."""
    best = probabilities.topk(min(count, len(probabilities)))
    return [
        (class_names[label], score) for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
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
