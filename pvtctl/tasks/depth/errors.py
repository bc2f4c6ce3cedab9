"""Depth errors of one image, alignment, evaluation crops, and ordinal pairs."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.errors import UsageError, nearest
from pvtctl.models.structures import ImageSize

NUMBERS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
"""Errors of each image; `silog` is multiplied by 100, as in publications; deltas are fractions."""
_KB, _EIGEN = (352, 1216), (480, 640)


def depth_errors(depth: Tensor, truth: Tensor) -> list[float]:
    """`NUMBERS` of one image: float64 (N,) predicted and true metres, all above 0, N at least 1."""
    difference = depth - truth
    log = depth.log() - truth.log()
    ratio = torch.maximum(depth / truth, truth / depth)
    values = [
        (difference.abs() / truth).mean(),
        (difference.square() / truth).mean(),
        difference.square().mean().sqrt(),
        log.square().mean().sqrt(),
        log.abs().mean() / math.log(10),
        100 * (log - log.mean()).square().mean().sqrt(),
        *((ratio < 1.25**power).double().mean() for power in (1, 2, 3)),
    ]
    return torch.stack(values).tolist()


def least_squares(values: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift that minimise the squares of scale x values + shift - wanted; both (N,) float64.

    For constant values: scale 0 and the mean of `wanted`.
    """
    mean, goal = values.mean(), wanted.mean()
    moved = values - mean
    spread = moved.square().sum()
    flat = spread <= 1e-24 * values.square().sum()
    scale = torch.where(flat, 0.0, (moved * (wanted - goal)).sum() / torch.where(flat, 1.0, spread))
    return scale, goal - scale * mean


def median(values: Tensor) -> Tensor:
    """The median; for an even number the mean of the middle two (as numpy; torch takes the lower)."""
    lower, upper = (values.kthvalue(place + 1).values for place in ((len(values) - 1) // 2, len(values) // 2))
    return (lower + upper) / 2


def crop_box(crop: Literal["eigen", "garg"], size: ImageSize) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the scored part of a map (height, width).

    `eigen`: rows 45 to 471 and columns 41 to 601 of 480x640, in proportion for other sizes. `garg`: KITTI's shares of the
    full image. A map of 352x1216, KITTI's benchmark crop, is assumed to be cut from 375x1242, the usual size of KITTI.
    """
    height, width = size
    if crop == "eigen":
        ratio = (height / _EIGEN[0], width / _EIGEN[1])
        return round(45 * ratio[0]), round(471 * ratio[0]), round(41 * ratio[1]), round(601 * ratio[1])
    if size == _KB:
        top, bottom, left, right = crop_box("garg", (375, 1242))
        return top - 23, bottom - 23, left - 13, right - 13
    return (
        int(0.40810811 * height),
        int(0.99189189 * height),
        int(0.03594771 * width),
        int(0.96405229 * width),
    )


def whdr(output: Tensor, pairs: NDArray[np.int64], space: Literal["metres", "inverse"]) -> tuple[int, int]:
    """Number of ordinal pairs that an output (H, W) orders wrongly, and of all pairs (WHDR with equal weights; DIW).

    `pairs` (P, 5): y and x of a first point, y and x of a second, and 1 where the first is nearer, -1 where the second is.
    Points that the output puts at the same depth are ordered wrongly. Raises UsageError for points outside the image.
    """
    height, width = output.shape
    points = pairs[:, :4].reshape(-1, 2, 2)
    if (points < 0).any() or (points >= (height, width)).any():
        raise UsageError(f"an ordinal pair is outside its image of {width}x{height} pixels", "pairs are y, x from 0")
    y, x = (torch.from_numpy(points[:, :, axis].copy()).to(output.device) for axis in (0, 1))
    values = output[y, x].double()
    nearer = (values[:, 0] - values[:, 1]).sign() * (1 if space == "inverse" else -1)
    wrong = nearer.cpu().numpy() != np.sign(pairs[:, 4])
    return int(wrong.sum()), len(pairs)


ORDINAL_FILE = "ordinal.csv"
"""At the top of a depth set; about its validation images, which have depth files too."""
_COLUMNS = ("image", "y1", "x1", "y2", "x2", "nearer")
_HINT = f"{ORDINAL_FILE} has the columns {','.join(_COLUMNS)}: pixels from 0, `nearer` is 1 or 2"


def read_ordinal_pairs(root: Path | str, names: Collection[str]) -> dict[str, NDArray[np.int64]]:
    """`ordinal.csv` of a depth set: image -> (P, 5) y, x of a first point, y, x of a second, 1 or -1: the first, or the
    second, is nearer (`pvtctl.tasks.depth.errors.whdr`). Empty without such a file.

    `names` are the images of the split, as named in the file. Raises UsageError naming the wrong line.
    """
    path = Path(root).expanduser() / ORDINAL_FILE
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[int, ...]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise UsageError(f"{path} has no column {missing[0]}", _HINT)
            for row in reader:
                found.setdefault(row["image"], []).append(_pair(row, f"{path}:{reader.line_num}", names))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}", _HINT) from error
    return {name: np.asarray(pairs, np.int64) for name, pairs in found.items()}


def _pair(row: dict[str, str], place: str, names: Collection[str]) -> tuple[int, ...]:
    if row["image"] not in names:
        raise UsageError(f"{place}: no image {row['image']!r} in the split", nearest(str(row["image"]), tuple(names)))
    try:
        points = tuple(int(row[column]) for column in _COLUMNS[1:5])
        sign = {"1": 1, "2": -1}[row["nearer"].strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{place}: not four whole numbers, then 1 or 2", _HINT) from error
    return (*points, sign)
