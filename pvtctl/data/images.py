"""Image files to pixels: any file that PIL knows becomes RGB, only the requested part is resampled.

PIL decodes, torch's vector kernels resample what was cropped, as uint8, at two thirds of the time of decoding and
resampling with PIL. On 200 photos 99.97 % of the values are within one of 256 levels of PIL's own bicubic (0.04 on
average); at saturated edges, where the order of the two passes decides what is clipped, they are up to 12 apart. In
training of classifiers, a JPEG whose crop is at least four times as large as the target per side is decoded at a half, a
quarter or an eighth of its size: 0.5 levels on average, 10 or less for 99.9 % of the values of 200 photos, 25 at most (`tests/benchmarks/reduced_decoding.py`).
How a file becomes RGB is said by a `Reading`: whether its EXIF orientation is applied, and which values of 16-bit
grey become black and white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.transforms import resample
from pvtctl.io.foreign import BadFile, open_foreign, read_foreign

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: PIL's own limit against decompression bombs."""

RgbImage = NDArray[np.uint8]
"""(H, W, 3)."""

_DRAFT_MARGIN = 2
"""A JPEG is decoded at 1/s only while the crop keeps this many times the target pixels per side."""


class BadImage(Exception):
    """An image file that cannot be used; the message says why."""


class TooLarge(BadImage):
    """An image with more than MAX_PIXELS pixels."""


@dataclass(frozen=True)
class Reading:
    """How image files become RGB."""

    exif: bool = False
    """Turn images by their EXIF orientation, as viewers and labelling tools show them."""
    grey: tuple[float, float] | None = None
    """The values of 16-bit grey images that become black and white. None: 0 and 65535 in an image that uses the upper
    half of them, else its own smallest and largest value."""


AS_STORED = Reading()
"""As the training code of ImageNet reads images: the published scores were made so."""
AS_SHOWN = Reading(exif=True)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what shows the image upright."""


class SourceImage(Protocol):
    """An image from which any part can be read at any size."""

    height: int
    width: int

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        """The part `box` (top, left, height, width, in pixels of the picture), resampled bicubic and antialiased to
        `size` (H, W): uint8 (3, H, W). Without `exact`, much larger images may be resampled cheaper and
        differ by about one of 256 levels. Raises BadImage."""


class ReadableImages(Protocol):
    """Image files by position."""

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises BadImage, OSError."""


class TensorPicture:
    """A picture that is already decoded: uint8 (3, H, W)."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[-2:]

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        top, left, height, width = box
        return resample(self.pixels[:, top : top + height, left : left + width], size, "bicubic", antialias=True)


class EncodedPicture:
    """The bytes of an image file, decoded on demand. Raises BadImage if the header is not an image's."""

    def __init__(self, data: bytes, reading: Reading = AS_STORED) -> None:
        self._data, self._reading = data, reading
        self._image = open_image(data)
        self.height, self.width = size_read(self._image, reading)

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        top, left, height, width = box
        scale = 1 if exact else min(height // size[0], width // size[1]) // _DRAFT_MARGIN
        image = decode(self._image, scale, self._reading)
        if image.size != (self.width, self.height):
            factor = 8 if scale >= 8 else 4 if scale >= 4 else 2
            edges = (left / factor, top / factor, (left + width) / factor, (top + height) / factor)
            return pixels_of(image.resize(size[::-1], Image.Resampling.BICUBIC, box=edges))
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return resample(pixels_of(image), size, "bicubic", antialias=True)


def image_bytes(path: Path | str) -> bytes:
    """The bytes of an image file or a map. Raises BadImage, also for what is no file, such as a named pipe."""
    try:
        return read_foreign(path, most=None)
    except BadFile as error:
        raise BadImage(error.reason) from error


def open_image(data: bytes) -> Image.Image:
    """PIL's view of the header, not decoded. Raises BadImage, also above MAX_PIXELS."""
    if not data:
        raise BadImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooLarge(f"more than {MAX_PIXELS} pixels: too large to be decoded safely") from error
    except Exception as error:  # PIL's plugins raise whatever a broken header leads them to
        raise BadImage(_first_line(error, "not an image file that PIL knows")) from error
    return image


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of the result of `open_image`, 1 (upright) to 8; damaged EXIF data say nothing. Decodes nothing.

    TIFF files are upright: PIL turns them itself.
    """
    if image.format == "TIFF" or (image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys()):
        return 1
    try:
        turned = image.getexif().get(0x0112, 1)
    except Exception:  # PIL raises whatever broken metadata lead it to
        return 1
    return int(turned) if turned in _TURNS else 1


def size_read(image: Image.Image, reading: Reading) -> tuple[int, int]:
    """(height, width) that `decode` gives the result of `open_image`."""
    if reading.exif and orientation_of(image) >= 5:
        return image.width, image.height
    return image.height, image.width


@contextmanager
def image_header(path: Path | str) -> Iterator[Image.Image]:
    """PIL's view of a file of which only the header is read. Raises BadImage."""
    try:
        with open_foreign(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Image.open(file)
    except BadFile as error:
        raise BadImage(error.reason) from error
    except Exception as error:  # PIL's plugins raise whatever broken data leads them to
        raise BadImage(_first_line(error, "not an image file that PIL knows")) from error


def file_size(path: Path, reading: Reading = AS_STORED) -> tuple[int, int] | None:
    """(height, width) of an image file as read, from its header; None if it is no image."""
    try:
        with image_header(path) as image:
            return size_read(image, reading)
    except BadImage:
        return None


def in_frame_of(size: tuple[int, int], image: Image.Image, reading: Reading) -> Reading:
    """The reading that gives an image the (height, width) of its labels; `reading` where the size cannot tell."""
    if image.width == image.height or orientation_of(image) < 5:
        return reading
    for exif in (False, True):
        if size_read(image, replace(reading, exif=exif)) == tuple(size):
            return replace(reading, exif=exif)
    return reading


def decode(image: Image.Image, reduce: int = 1, reading: Reading = AS_STORED) -> Image.Image:
    """Decode the result of `open_image` to RGB. Raises BadImage.

    With `reduce` of 2 or more a JPEG is decoded at the smallest of 1/2, 1/4, 1/8 of its size that is not below 1/reduce.
    Alpha is dropped and palettes are applied as PIL does it; 16-bit grey is scaled to 8 bits (PIL alone would clip it).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd palettes and of metadata that does not matter here
            if image.format == "JPEG" and reduce >= 2:
                image.draft(None, (image.width // reduce, image.height // reduce))
            turn = _TURNS.get(orientation_of(image)) if reading.exif else None
            image.load()
            if is_deep_grey(image):
                image = _to_8_bits(image, reading.grey)
            image = image if image.mode == "RGB" else image.convert("RGB")
            return image if turn is None else image.transpose(turn)
    except Exception as error:  # PIL's plugins raise whatever broken data leads them to
        raise BadImage(_first_line(error, "the pixels cannot be decoded")) from error


def read_image(data: bytes, reading: Reading = AS_STORED, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 (3, H, W) of an image file's bytes, in the frame of labels of `size` (height, width). Raises BadImage.

    An image of another size than its labels is an error: they belong to another file.
    """
    image = open_image(data)
    if size is not None:
        reading = in_frame_of(size, image, reading)
        height, width = size_read(image, reading)
        if (height, width) != tuple(size):
            raise BadImage(f"{width}x{height} pixels, but its annotations are for {size[1]}x{size[0]}")
    return pixels_of(decode(image, reading=reading))


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 (3, H, W), a view of a new (H, W, 3) array."""
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, 3).permute(2, 0, 1)


def read_beside(data: bytes, reading: Reading, size: Callable[[], tuple[int, int] | None]) -> Tensor:
    """As `read_image`, in the frame of the image's map, whose `size` is looked up for images that are turned only."""
    image = open_image(data)
    if orientation_of(image) >= 5 and (found := size()) is not None:
        reading = in_frame_of(found, image, reading)
    return pixels_of(decode(image, reading=reading))


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits, to which `Reading.grey` applies."""
    return image.mode.startswith("I") or image.mode == "F"


FULL_16_BITS = (0.0, 65535.0)


def own_range(low: float, high: float) -> tuple[float, float]:
    """The values that become black and white in grey of more than 8 bits that goes from `low` to `high`."""
    return FULL_16_BITS if low >= 0 and 32768 <= high <= 65535 else (low, high)


def _to_8_bits(image: Image.Image, grey: tuple[float, float] | None) -> Image.Image:
    """Grey of more than 8 bits between black and white, by default `own_range`."""
    values = np.asarray(image)
    low, high = own_range(float(values.min()), float(values.max())) if grey is None else grey
    if (low, high) == FULL_16_BITS and image.mode.startswith("I"):
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.nan_to_num(scaled).clip(0, 255).astype(np.uint8))


def _first_line(error: Exception, default: str) -> str:
    text = str(error).strip().splitlines()
    if not text or "BytesIO" in text[0]:
        return default
    return text[0]


def to_rgb(pixels: Tensor) -> RgbImage:
    """uint8 (3, H, W) -> (H, W, 3), contiguous."""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
