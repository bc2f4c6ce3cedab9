"""Image files to pixels: any file that PIL knows becomes RGB, only the requested part is resampled.

PIL decodes, torch's vector kernels resample what was cropped, as uint8, at two thirds of the time of decoding and
resampling with PIL. On 200 photos 99.97 % of the values are within one of 256 levels of PIL's own bicubic (0.04 on
average); at saturated edges, where the order of the two passes decides what is clipped, they are up to 12 apart. In
training, a JPEG whose crop is many times larger than the target is decoded at a half, a quarter or an eighth of its
size. EXIF rotation is ignored, as the training code of ImageNet ignores it: the published scores were made so.
"""

from __future__ import annotations

import io
import warnings
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

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


class SourceImage(Protocol):
    """An image from which any part can be read at any size."""

    height: int
    width: int

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        """The part `box` (top, left, height, width, in pixels of the picture), resampled bicubic and antialiased to
        `size` (H, W): uint8 (3, H, W). Without `exact`, much larger images may be resampled cheaper and
        differ by about one of 256 levels. Raises BadImage."""


class TensorPicture:
    """A picture that is already decoded: uint8 (3, H, W)."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[-2:]

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        top, left, height, width = box
        return resample(self.pixels[:, top : top + height, left : left + width], size)


class EncodedPicture:
    """The bytes of an image file, decoded on demand. Raises BadImage if the header is not an image's."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._image = open_image(data)
        self.width, self.height = self._image.size

    def resized(self, box: tuple[int, int, int, int], size: tuple[int, int], *, exact: bool = True) -> Tensor:
        top, left, height, width = box
        scale = 1 if exact else min(height // size[0], width // size[1]) // _DRAFT_MARGIN
        image = decode(self._image, scale)
        if image.size != (self.width, self.height):
            factor = 8 if scale >= 8 else 4 if scale >= 4 else 2
            edges = (left / factor, top / factor, (left + width) / factor, (top + height) / factor)
            return pixels_of(image.resize(size[::-1], Image.Resampling.BICUBIC, box=edges))
        if image.size != (width, height):
            image = image.crop((left, top, left + width, top + height))
        return resample(pixels_of(image), size)


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


def decode(image: Image.Image, reduce: int = 1) -> Image.Image:
    """Decode the result of `open_image` to RGB. Raises BadImage.

    With `reduce` of 2 or more a JPEG is decoded at the smallest of 1/2, 1/4, 1/8 of its size that is not below 1/reduce.
    Alpha is dropped and palettes are applied as PIL does it; 16-bit grey is scaled to 8 bits (PIL alone would clip it).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of odd palettes and of metadata that does not matter here
            if image.format == "JPEG" and reduce >= 2:
                image.draft(None, (image.width // reduce, image.height // reduce))
            image.load()
            if image.mode.startswith("I") or image.mode == "F":
                image = _to_8_bits(image)
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # PIL's plugins raise whatever broken data leads them to
        raise BadImage(_first_line(error, "the pixels cannot be decoded")) from error


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image -> uint8 (3, H, W), a view of a new (H, W, 3) array."""
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, 3).permute(2, 0, 1)


def resample(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (3, h, w) -> uint8 (3, *size): bicubic, antialiased."""
    return F.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (PNG, TIFF) by its upper byte; wider integers and floats by their own range."""
    values = np.asarray(image)
    if image.mode.startswith("I") and values.min() >= 0 and values.max() <= 65535:
        return Image.fromarray((values // 257).astype(np.uint8))
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))


def _first_line(error: Exception, default: str) -> str:
    text = str(error).strip().splitlines()
    if not text or "BytesIO" in text[0]:
        return default
    return text[0]


def to_rgb(pixels: Tensor) -> RgbImage:
    """uint8 (3, H, W) -> (H, W, 3), contiguous."""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
