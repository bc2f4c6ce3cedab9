"""Depth as pictures: in a perceptual colour map with a scale bar, and next to ground truth and errors.

Near is bright and far is dark (viridis, reversed); pixels without depth are grey. The bar shows the metres of
the colours; ground truth and prediction share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from pvtctl.data.images import to_rgb
from pvtctl.io.depth_png import Space, write_depth_png
from pvtctl.io.files import atomic_path
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.transforms import resize_depth
from pvtctl.views.sheet import Pixels, captioned, enlarged, enlargement, font_of

Depth = NDArray[np.float32]
"""(H, W) metres, 0 for no depth; or inverse depth."""

PANEL = 400
"""Width of each of the four pictures of `draw_depth_comparison`; of wide images it is twice that, in two rows."""
NO_DEPTH = (165, 165, 165)
_GAP = 6
_NARROWEST = 240
"""Pixels that a bar needs for its labels."""
_WIDE = 2.2
"""Aspect ratio (width over height) from which four pictures are drawn in two rows."""
_SPARSE = 0.25
"""Share of pixels with ground truth below which each is drawn as 3 x 3: laser points are invisible otherwise."""
_ERROR_LIMITS = (0.05, 0.1, 0.2, 0.5, 1.0)
_LOGARITHMIC = 12.0
"""Ratio of farthest to nearest from which colours are logarithmic in distance."""


class Scale:
    """Colour scale from `low` to `high` metres, logarithmic if they are far apart."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = max(high, low * 1.001, low + 1e-6)
        self.logarithmic = low > 0 and self.high / low > _LOGARITHMIC

    @classmethod
    def of(cls, metres: Depth) -> Scale:
        """Scale for a map's depths, without the half percent at either end."""
        known = metres[np.isfinite(metres) & (metres > 0)]
        if not known.size:
            return cls(0.0, 1.0)
        low, high = np.quantile(known, [0.005, 0.995]).tolist()
        return cls(low, high)

    def share(self, metres: Depth) -> NDArray[np.float64]:
        """Position on the scale, 0 to 1."""
        inside = np.clip(metres.astype(np.float64), self.low, self.high)
        if self.logarithmic:
            return np.asarray(np.log(inside / self.low) / math.log(self.high / self.low))
        return np.asarray((inside - self.low) / (self.high - self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """(share, label) of the bar: both ends and round numbers between."""
        digits = 2 if self.high < 1 else 1 if self.high < 30 else 0
        labels = [(0.0, f"{self.low:.{max(digits, 1 if self.low < 3 else 0)}f}"), (1.0, f"{self.high:.{digits}f} m")]
        for value in _round_numbers(self.low, self.high, self.logarithmic):
            share = float(self.share(np.asarray(value, np.float32)))
            if 0.09 < share < 0.86:
                labels.append((share, f"{value:g}"))
        return sorted(labels)


def colour_depth(metres: Depth, scale: Scale) -> Pixels:
    """(H, W, 3) RGB; pixels without depth are `NO_DEPTH`."""
    drawn = []
    for part in np.array_split(metres, 1 + metres.size // 2**20):  # a large map in float64 would take a gigabyte
        valid = np.isfinite(part) & (part > 0)
        drawn.append(_coloured(1 - scale.share(np.where(valid, part, scale.high)), valid, "viridis"))
    return np.concatenate(drawn)


def draw_depth(values: Depth, space: Space) -> Pixels:
    """A map alone, above its bar; inverse depth of an unknown scale has a bar without numbers.

    A map under 400 pixels on its long side is enlarged by a whole number, and a narrow one gets a white margin.
    """
    if space == "metres":
        scale = Scale.of(values)
        picture, ticks = colour_depth(values, scale), scale.ticks()
    else:
        finite = np.isfinite(values)
        low, high = np.quantile(values[finite], [0.005, 0.995]) if finite.any() else (0.0, 1.0)
        share = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
        picture, ticks = _coloured(share, finite, "viridis"), [(0.0, "near"), (1.0, "far (no unit)")]
    picture = enlarged(picture, enlargement(picture))
    picture = np.pad(picture, ((0, 0), (0, max(0, _NARROWEST - picture.shape[1])), (0, 0)), constant_values=255)
    return _stacked(picture, scale_bar(picture.shape[1], "viridis_r", ticks))


def depth_tile(split: DenseDataset, pixels: Tensor, depth: Tensor, side: int) -> Pixels:
    """uint8 (3, H, W) and its depth -> the image above the coloured depth, whose longer side is `side` pixels."""
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = Image.fromarray(to_rgb(pixels)).resize(size[::-1], Image.Resampling.BILINEAR)
    if bool((depth > 0).float().mean() > _SPARSE):
        shrunk = resize_depth(depth, size)
    else:  # the farthest value that falls on a pixel: nearest sampling would lose most
        shrunk = functional.adaptive_max_pool2d(depth[None], size)[0]
    below = Image.fromarray(draw_depth(shrunk.numpy(), "metres"))
    if below.width != image.width:
        below = below.resize((image.width, round(below.height * image.width / below.width)), Image.Resampling.LANCZOS)
    return _stacked(np.asarray(image), np.asarray(below))


def draw_beside(image: Pixels, values: Depth, space: Space) -> Pixels:
    """An image (H, W) and its depth side by side, without ground truth."""
    found = captioned(draw_depth(values, space), "prediction")
    left = captioned(enlarged(image, enlargement(image)), "image")
    rows = max(left.shape[0], found.shape[0])
    parts = [
        np.pad(part, ((0, rows - part.shape[0]), (0, gap), (0, 0)), constant_values=255)
        for part, gap in ((left, _GAP), (found, 0))
    ]
    return np.concatenate(parts, axis=1)


def draw_depth_comparison(
    image: Pixels, truth: Depth, prediction: Depth, scored: NDArray[np.bool_] | None = None
) -> Pixels:
    """Image, ground truth, prediction and errors side by side, above their colour bars.

    `truth` and `prediction` (H, W) metres have the image's size or are smaller. `scored`: the pixels that count, if
    not all true ones do; only they have an error. Always 4 x `PANEL` + 18 pixels wide.
    """
    valid = np.isfinite(truth) & (truth > 0)
    counted = valid if scored is None else valid & scored
    scale = Scale.of(np.where(counted if counted.any() else valid, truth, 0) if valid.any() else prediction)
    wide = image.shape[1] > _WIDE * image.shape[0]
    width = 2 * PANEL + _GAP if wide else PANEL
    size = (max(1, round(image.shape[0] * width / image.shape[1])), width)
    relative = np.where(counted, (prediction - truth) / np.where(counted, truth, 1), 0)
    limit = _error_limit(np.abs(relative[counted]))
    true, seen = _laid(np.where(valid, truth, 0), valid, size)
    error, known = _laid(relative, counted, size)
    found = np.asarray(Image.fromarray(prediction.astype(np.float32)).resize(size[::-1], Image.Resampling.NEAREST))
    shown = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))
    mean = (
        f"error, {100 * np.abs(relative[counted]).mean():.1f} % on average" if counted.any() else "no error: no truth"
    )
    panels = [
        captioned(shown, "image"),
        captioned(colour_depth(np.where(seen, true, 0).astype(np.float32), scale), "truth"),
        captioned(colour_depth(found, scale), "prediction"),
        captioned(_coloured(0.5 - error / limit / 2, known, "RdBu"), mean),
    ]
    bars = _bars(4 * PANEL + 3 * _GAP, scale, limit)
    return _stacked(*([_row(panels[:2]), _row(panels[2:])] if wide else [_row(panels)]), bars)


def scale_bar(width: int, colours: str, ticks: Sequence[tuple[float, str]]) -> Pixels:
    """A strip of a matplotlib colour map from 0 to 1 with labels below."""
    size = max(11, round(min(width, 1000) / 55))
    bar = Image.new("RGB", (width, round(2.9 * size)), "white")
    left, right, top, bottom = 4, width - 5, 4, 4 + size
    strip = _colour_table(colours)[np.linspace(0, 255, right - left).round().astype(np.int64)]
    bar.paste(Image.fromarray(np.repeat(strip[None], bottom - top, axis=0)), (left, top))
    pen, font = ImageDraw.Draw(bar), font_of(size)
    taken = -math.inf
    # Both ends come first; labels that would touch another are left out
    end = right - font.getlength(ticks[-1][1]) - size / 2
    for share, label in ticks:
        x = left + share * (right - left - 1)
        half = font.getlength(label) / 2
        at = min(max(x, left + half), right - half)
        if at - half < taken or (share < 1 and at + half > end):
            continue
        taken = at + half + size / 2
        pen.line((x, bottom, x, bottom + 3), fill="black")
        pen.text((at, bottom + 4), label, fill="black", font=font, anchor="mt")
    return np.asarray(bar)


def write_depth(folder: Path, stem: str, values: Depth, *, space: Space) -> dict[str, Path]:
    """Write a prediction as `STEM.png` (16 bits, see `pvtctl.io.depth_png`), `STEM.npy` (float32) and `STEM_view.png`.

    Returns kind -> file: `png`, `npy`, `view`.
    """
    files = {"png": folder / f"{stem}.png", "npy": folder / f"{stem}.npy", "view": folder / f"{stem}_view.png"}
    write_depth_png(files["png"], values, space=space)
    with atomic_path(files["npy"]) as temporary, temporary.open("wb") as handle:
        np.save(handle, values.astype(np.float32))
    with atomic_path(files["view"]) as temporary:
        Image.fromarray(draw_depth(values, space)).save(temporary, format="PNG")
    return files


def _bars(width: int, scale: Scale, limit: float) -> Pixels:
    """The bar of the depths on the left, that of the errors on the right."""
    half = (width - 4 * _GAP) // 2
    depth = captioned(scale_bar(half, "viridis_r", scale.ticks()), "depth in metres")
    percent = f"{100 * limit:.0f} %"
    ticks = [(0.0, f"-{percent}"), (0.5, "0"), (1.0, f"+{percent}")]
    error = captioned(
        scale_bar(half, "RdBu_r", ticks), "error in percent of the true depth: blue too near, red too far"
    )
    gap = np.full((depth.shape[0], width - 2 * half, 3), 255, np.uint8)
    return np.concatenate([depth, gap, error], axis=1)


def _error_limit(errors: NDArray[np.floating]) -> float:
    """The smallest round limit that 95 % of the errors are within."""
    most = float(np.quantile(errors, 0.95)) if errors.size else 0.0
    return next((limit for limit in _ERROR_LIMITS if most <= limit), _ERROR_LIMITS[-1])


def _laid(
    values: NDArray[np.floating], valid: NDArray[np.bool_], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resize values and their mask; of several values that fall on one pixel the last is taken."""
    height, width = size
    if valid.mean() >= _SPARSE:
        pair = (values.astype(np.float32), valid.astype(np.uint8))
        out, there = (
            np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.NEAREST)) for part in pair
        )
        return out, there > 0
    y, x = np.nonzero(valid)
    rows = ((y + 0.5) * height / valid.shape[0]).astype(np.int64)
    columns = ((x + 0.5) * width / valid.shape[1]).astype(np.int64)
    laid, where = np.zeros(size, np.float32), np.zeros(size, np.bool_)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            at = np.clip(rows + down, 0, height - 1), np.clip(columns + right, 0, width - 1)
            laid[at], where[at] = values[y, x], True
    return laid, where


def _coloured(share: NDArray[np.floating], valid: NDArray[np.bool_], colours: str) -> Pixels:
    picture = _colour_table(colours)[(np.clip(share, 0, 1) * 255).round().astype(np.int64)]
    picture[~valid] = NO_DEPTH
    return picture


@lru_cache
def _colour_table(name: str) -> NDArray[np.uint8]:
    """(256, 3) RGB of a matplotlib colour map."""
    from matplotlib import colormaps

    return np.asarray((colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8))


def _round_numbers(low: float, high: float, logarithmic: bool) -> list[float]:
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _row(panels: Sequence[Pixels]) -> Pixels:
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([panels[0], *(part for panel in panels[1:] for part in (gap, panel))], axis=1)


def _stacked(*parts: Pixels) -> Pixels:
    return np.concatenate(parts, axis=0)
