"""Read and write depth as a 16-bit PNG whose metadata states what its values mean.

Text chunks of the file: `pvtctl:space` (metres or inverse), `pvtctl:scale` (output = value / scale) and, for people,
`Description`. In metres, 0 means no depth, and the scale is one that other tools use: 1000 as in NYUv2's files if all
depth is less than 65.5 m, else 256 as in KITTI's if 99 % is less than 256 m, else the one that fits these 99 %; larger
values are clipped to 65535. Inverse depth of an unknown scale has values up to 65535, and 0 is infinitely far away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path

Space = Literal["metres", "inverse"]
_MOST = 65535
_SPACE, _SCALE = "pvtctl:space", "pvtctl:scale"


def write_depth_png(path: Path | str, values: NDArray[Any], *, space: Space) -> float:
    """Write a map (H, W) of metres or inverse depth, and return its scale: stored value = round(scale x value).

    Values that are negative or not finite become 0; positive metres never do.
    """
    values = np.where(np.isfinite(values) & (values > 0), values, 0)
    scale = _scale(values[values > 0], space)
    stored = np.empty(values.shape, np.uint16)
    for row, line in zip(stored, values, strict=True):  # a large map in float64 would take a gigabyte
        row[:] = np.minimum(np.round(line.astype(np.float64) * scale), _MOST)
    if space == "metres":
        stored[(values > 0) & (stored == 0)] = 1
    info = PngImagePlugin.PngInfo()
    info.add_text(_SPACE, space)
    info.add_text(_SCALE, repr(scale))
    what = "metres, 0 = no depth" if space == "metres" else "inverse depth of an unknown scale"
    info.add_text("Description", f"depth: value / {scale:.6g} = {what}")
    with atomic_path(path) as temporary:
        Image.fromarray(stored).save(temporary, format="PNG", pnginfo=info)
    return scale


def read_depth_png(path: Path | str) -> tuple[NDArray[np.float32], Space]:
    """Read a file of `write_depth_png`: the map (H, W), and whether it is metres (0 = no depth) or inverse depth.

    Raises UsageError for other files.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text: dict[str, Any] = getattr(image, "text", {})
            stored = np.asarray(image)
        space, scale = text[_SPACE], float(text[_SCALE])
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"{path} is not a depth file of pvtctl: it does not state its scale", "`pvtctl predict` writes such files"
        ) from error
    if space not in ("metres", "inverse") or not scale > 0 or stored.ndim != 2:
        raise UsageError(f"{path} is a damaged depth file", "predict the image again")
    return (stored / scale).astype(np.float32), space


def _scale(values: NDArray[Any], space: Space) -> float:
    """Scale for values that are all positive."""
    if not values.size:
        return 1000.0 if space == "metres" else 1.0
    most = float(values.max())
    if space == "inverse":
        return _MOST / most
    if most * 1000 <= _MOST:
        return 1000.0
    # One sky pixel a thousand kilometres away must not reduce all others to a few values
    most = float(np.quantile(values.astype(np.float64), 0.99))
    return min(256.0, _MOST / most)
