"""Images for prediction outside data sets: finding, reading and drawing them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.image_files import SUFFIXES, images_below
from pvtctl.data.images import (
    AS_SHOWN,
    BadImage,
    Reading,
    decode,
    image_bytes,
    is_deep_grey,
    open_image,
    orientation_of,
    pixels_of,
)
from pvtctl.errors import UsageError
from pvtctl.io.foreign import found_instead

_COCO_NAME = re.compile(r"\d{12}")


@dataclass(frozen=True)
class Images:
    """The images to predict, in the order of their names, numbers in them by value: frame2 before frame10."""

    folder: Path
    """Their common parent."""
    names: list[str]
    """Relative to `folder`."""
    ids: list[int]
    """COCO's image ids if every file name is one (000000000139.jpg), else 1, 2, 3 ..."""


def find_images(words: Sequence[str]) -> Images:
    """Files, folders (with the folders in them) and patterns -> images. In a folder, files without an image
    suffix are skipped.

    Raises UsageError if a word matches nothing.
    """
    found: dict[Path, None] = {}
    for word in words:
        found |= dict.fromkeys(path.absolute() for path in _images_of(word))
    folder = Path(os.path.commonpath([path.parent for path in found]))
    names = [path.relative_to(folder).as_posix() for path in found]
    numbers = re.compile(r"(\d+)")
    names.sort(key=lambda name: [(int(part), "") if part.isdecimal() else (-1, part) for part in numbers.split(name)])
    stems = {Path(name).stem for name in names}
    if len(stems) == len(names) and all(_COCO_NAME.fullmatch(stem) for stem in stems):
        return Images(folder, names, [int(Path(name).stem) for name in names])
    return Images(folder, names, list(range(1, len(names) + 1)))


def _images_of(word: str) -> list[Path]:
    if not word.strip():  # a variable that is not set; "" would be the working folder
        raise UsageError("an empty name for an image", "name images, a folder of them, or a pattern")
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
        said = found_instead(path, "a file or folder") or f"no file or folder {word}"
        raise UsageError(said, "name images, a folder of them, or a pattern such as 'photos/*.jpg'")
    return matches


@dataclass(frozen=True)
class ReadNotes:
    """What a user may want to know of how an image was read."""

    turned: bool
    """It has an EXIF orientation."""
    stretched: bool
    """It is 16-bit grey without a known range, and was scaled by its own."""


def read_pixels(path: Path, reading: Reading = AS_SHOWN) -> tuple[Tensor, ReadNotes]:
    """uint8 (3, H, W) of an image file. Raises BadImage, OSError."""
    image = open_image(image_bytes(path))
    notes = ReadNotes(orientation_of(image) != 1, reading.grey is None and is_deep_grey(image))
    return pixels_of(decode(image, reading=reading)), notes


ImageLike = str | Path | Image.Image | Tensor | NDArray[Any]
"""An image: a file, or its pixels."""


def to_pixels(image: ImageLike, reading: Reading = AS_SHOWN) -> Tensor:
    """uint8 (3, H, W) of an image: a file's path, a PIL image, a tensor (3, H, W) or an array (H, W, 3).

    Only files are turned by their EXIF orientation: a PIL image is used as it is.

    Tensors and arrays hold uint8, or floats from 0 to 1, and are not normalised. Raises UsageError for anything else.
    """
    if isinstance(image, str | Path):
        try:
            return read_pixels(Path(image).expanduser(), reading)[0]
        except (BadImage, OSError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).removeprefix("cannot be read: ")
            raise UsageError(f"{image} cannot be read: {reason}", "name an image file") from error
    if isinstance(image, Image.Image):
        try:
            return pixels_of(decode(image.copy(), reading=replace(reading, exif=False)))
        except BadImage as error:
            raise UsageError(f"the image cannot be read: {error}", "give one that can be opened") from error
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"an array of shape {image.shape} is not an image", "an image is an array (H, W, 3)")
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    elif isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            hint = "an image is a tensor (3, H, W); of a batch, give list(batch)"
            raise UsageError(f"a tensor of shape {tuple(image.shape)} is not an image", hint)
        pixels = image.detach().cpu()
    else:
        raise UsageError(f"a {type(image).__name__} is not an image", "a path, a PIL image, a tensor or an array")
    return _to_uint8(pixels)


def _to_uint8(pixels: Tensor) -> Tensor:
    if 0 in pixels.shape:
        raise UsageError(f"an image of {pixels.shape[1]}x{pixels.shape[2]} pixels is empty", "give one with pixels")
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UsageError(f"pixels of type {pixels.dtype} are not known", "uint8, or floats from 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise UsageError(
            f"pixels of {low:.3g} to {high:.3g} are not an image's",
            "floats from 0 to 1 (do not normalise them), or uint8",
        )
    return (pixels * 255).round().to(torch.uint8)


def save_picture(pixels: Any, path: Path) -> None:
    """Write uint8 (H, W, 3) RGB as JPEG if `path` has its suffix, else as PNG, replacing `path` in one step."""
    from pvtctl.io.files import atomic_path

    with atomic_path(path) as temporary:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            Image.fromarray(pixels).save(temporary, format="JPEG", quality=92)
        else:
            Image.fromarray(pixels).save(temporary, format="PNG")
