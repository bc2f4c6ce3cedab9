"""Depth files to metres: 16- and 32-bit integers (PNG, TIFF, PGM), float TIFF and PFM, npy; units are never guessed."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import MAX_PIXELS, BadImage, image_bytes, open_image
from pvtctl.errors import UsageError

DEPTH_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".pgm", ".pfm")
"""Files with these endings (in any case) are depth maps."""

SCALE_HINT = (
    "say what the files hold for a metre: `--set data.depth.scale=1000` for millimetres (256 in KITTI's files), "
    'or depth.json beside the splits: {"scale": 1000}'
)

_PIL_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_MODE_WORDS = {"1": "black and white", "L": "8-bit grey", "P": "8-bit palette", "LA": "8-bit grey with alpha"}


@dataclass(frozen=True)
class DepthCoding:
    """Encoding of a set's depth files. Raises UsageError for settings that make no sense."""

    scale: float | None = None
    """Metres = value / scale, in files of any type; None: `integer_scale` in those of integers, 1 in those of floats."""
    integer_scale: float | None = None
    """The layout's scale; None: files of integers are not accepted."""
    invalid: tuple[float, ...] = ()
    """Raw values that mean no depth, as do 0, negative and non-finite values."""
    min_depth: float = 1e-3
    max_depth: float | None = None
    """Metres: values outside the limits count as no depth."""
    inverse: bool = False
    """The files hold inverse depth of an unknown scale, see `decode_depth`."""

    def __post_init__(self) -> None:
        for value in (self.scale, self.integer_scale):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"data.depth.scale is {value:g}: no depth can be made with it", SCALE_HINT)
        if self.max_depth is not None and self.max_depth <= self.min_depth:
            raise UsageError(
                f"data.depth.max_depth is {self.max_depth:g} m, not above min_depth, {self.min_depth:g} m",
                "10 is NYUv2's, 80 KITTI's",
            )

    def scale_of(self, dtype: np.dtype[Any]) -> float | None:
        """Value per metre in a file of this type; None: unknown."""
        return self.scale if self.scale is not None else 1.0 if dtype.kind == "f" else self.integer_scale


def raw_depth(path: Path) -> NDArray[Any]:
    """The raw values of a file, (H, W), integers or floats.

    Raises OSError; BadImage if it is no depth map: 8 bits, colours, complex numbers, more or fewer than two axes.
    """
    data = image_bytes(path)
    values = _npy(data) if path.suffix.lower() == ".npy" else _picture(data)
    if values.dtype.itemsize == 1 or values.dtype.kind not in "iuf":
        raise BadImage(f"values of type {values.dtype}: depth needs integers of 16 bits or more, or floats")
    if values.ndim != 2 or not values.size:
        raise BadImage(f"an array of shape {values.shape}: a depth map is (height, width)")
    return values


def decode_depth(values: NDArray[Any], coding: DepthCoding) -> Tensor:
    """Raw values (H, W) -> float32 (H, W) metres, 0 for no depth.

    Inverse depth of an unknown scale becomes depth of an unknown scale: median / value, so that half of an image is
    beyond 1 "metre". Losses and scores that fit scale and shift of the inverse are invariant to it; others must not be
    used on it. `min_depth` and `max_depth` are not applied to it.
    Raises BadImage when no value is a depth, UsageError for integers without a scale.
    """
    scale = coding.scale_of(values.dtype)
    if scale is None and not coding.inverse:
        raise UsageError("depth files of integers without a known value per metre", SCALE_HINT)
    valid = valid_values(values, coding.invalid)
    if not valid.any():
        raise BadImage("no value of it is a depth: all are 0, negative, not finite, or listed as invalid")
    if coding.inverse:
        depth = np.divide(np.median(values[valid]), values, out=np.zeros(values.shape), where=valid)
        return torch.from_numpy(depth.astype(np.float32))
    assert scale is not None
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which is no depth
        depth = values.astype(np.float32) / np.float32(scale)
    inside = valid & (depth >= coding.min_depth) & (depth < np.inf)
    if coding.max_depth is not None:
        inside &= depth <= coding.max_depth
    if not inside.any():
        most = "" if coding.max_depth is None else f" to {coding.max_depth:g}"
        middle = np.median(values[valid].astype(np.float64)) / scale
        raise BadImage(f"no depth from {coding.min_depth:g}{most} m: its median is {middle:.4g} m at scale {scale:g}")
    return torch.from_numpy(np.where(inside, depth, np.float32(0)))


def valid_values(values: NDArray[Any], invalid: Iterable[float]) -> NDArray[np.bool_]:
    """bool (H, W): finite, above 0, and not one of those listed."""
    valid = values > 0
    if values.dtype.kind == "f":
        valid &= np.isfinite(values)
    for value in invalid:
        valid &= values != value
    return np.asarray(valid)


def _picture(data: bytes) -> NDArray[Any]:
    image = open_image(data)
    if image.mode not in _PIL_MODES:
        raise BadImage(
            f"{_MODE_WORDS.get(image.mode, f'colours ({image.mode})')}: depth needs one channel of 16-bit integers or floats"
            + (
                " (steps this coarse are not read; write the values as 16 bits and say data.depth.scale)"
                if image.mode == "L"
                else ""
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # PIL's plugins raise whatever broken data leads them to
        raise BadImage(str(error).strip().split("\n")[0] or "the values cannot be decoded") from error
    return np.asarray(image)


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an npy file states, before anything of that size is allocated."""
    file = io.BytesIO(data)
    read = (
        np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(file)[0] == 1
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(file)
    if dtype.hasobject or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("no numbers")
    return shape, dtype


def _npy(data: bytes) -> NDArray[Any]:
    if data[:4] == b"PK\x03\x04":
        raise BadImage("an npz archive: a depth map is one array, saved with numpy.save")
    try:
        shape, dtype = _npy_header(data)
        count = math.prod(shape)
        if count > MAX_PIXELS:
            raise BadImage(f"more than {MAX_PIXELS} values: too large to be used safely")
        if count * dtype.itemsize > len(data):
            raise BadImage(f"the file is cut short: {shape} values of {dtype} are more than its {len(data)} bytes")
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except BadImage:
        raise
    except Exception as error:  # numpy parses the header as Python, and raises whatever that raises
        raise BadImage(f"not an npy file of numbers: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not isinstance(values, np.ndarray):
        raise BadImage("not one array, saved with numpy.save")
    if values.ndim == 3:  # one channel, first or last
        values = values[..., 0] if values.shape[-1] == 1 else values[0] if values.shape[0] == 1 else values
    return values
