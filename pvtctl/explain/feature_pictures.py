"""Feature maps as pictures: their first three principal components as colours, and the norm of each cell.

The components of a level are computed over all cells of all images, so that colours are comparable between the
pictures of one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvtctl.views.figure import new_figure, save, shorten
from pvtctl.views.sheet import Pixels

Map = NDArray[np.floating]
"""(C, h, w)."""

_ENDS = (0.01, 0.99)
"""Quantiles of a component's values that map to black and full colour."""
_CELL = 2.5
"""Width of a panel in inches."""


class ComponentFit:
    """Principal component analysis of the cells of a level, accumulated over maps."""

    def __init__(self) -> None:
        self._cells = 0
        self._sum: NDArray[np.float64] | float = 0.0
        self._products: NDArray[np.float64] | float = 0.0

    def add(self, features: Map) -> None:
        """Add the cells of a map; all maps must have the same channels."""
        cells = features.reshape(len(features), -1).astype(np.float64)
        self._cells += cells.shape[1]
        self._sum = self._sum + cells.sum(1)
        self._products = self._products + cells @ cells.T

    def components(self) -> Components:
        """The three directions of largest variance, or as many as there are channels.

        The sign of a direction is arbitrary: it is chosen so that the largest weight is positive, for reproducible
        colours.
        """
        mean = np.asarray(self._sum) / self._cells
        covariance = np.asarray(self._products) / self._cells - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        order = np.argsort(-values, kind="stable")[:3]
        found = vectors[:, order].T
        signs = np.sign(found[np.arange(len(found)), np.abs(found).argmax(1)])
        total = float(np.clip(values, 0, None).sum())
        share = float(np.clip(values[order], 0, None).sum()) / total if total > 0 else 0.0
        return Components(mean, found * np.where(signs == 0, 1, signs)[:, None], share)


@dataclass(frozen=True)
class Components:
    """Result of `ComponentFit`."""

    mean: NDArray[np.float64]
    """(C,)."""
    directions: NDArray[np.float64]
    """(3, C) or fewer rows, by decreasing variance."""
    share: float
    """Fraction of the variance explained by these directions, 0 to 1."""

    def of(self, features: Map) -> NDArray[np.float32]:
        """Project (C, h, w) onto the directions, (3, h, w); missing directions give 0."""
        channels, height, width = features.shape
        cells = features.reshape(channels, -1).astype(np.float64) - self.mean[:, None]
        placed = np.zeros((3, height * width), np.float32)
        placed[: len(self.directions)] = self.directions @ cells
        return placed.reshape(3, height, width)


@dataclass(frozen=True)
class Level:
    """One level of one image's pyramid, for drawing."""

    name: str
    """C2, P4 ..."""
    channels: int
    share: float
    """Fraction of the variance explained by the three components."""
    rgb: Pixels
    """(h, w, 3): the components."""
    energy: NDArray[np.float32]
    """(h, w): norm of each cell's feature vector."""
    limits: tuple[float, float]
    """Range of `energy` over all images."""


def energy_of(features: Map) -> NDArray[np.float32]:
    """(C, h, w) -> (h, w): L2 norm over the channels."""
    return np.asarray(np.linalg.norm(features.astype(np.float64), axis=0), np.float32)


def to_levels(
    name: str,
    channels: int,
    share: float,
    placed: Sequence[NDArray[np.float32]],
    energies: Sequence[NDArray[np.float32]],
) -> list[Level]:
    """Results of `Components.of` and `energy_of` for several images -> one Level per image, with common scales."""
    values = np.concatenate([part.reshape(3, -1) for part in placed], axis=1)
    low, high = np.quantile(values, _ENDS, axis=1)
    span = np.where(high - low > 1e-9 * max(1.0, float(np.abs(values).max())), high - low, np.inf)
    limits = (min(float(part.min()) for part in energies), max(float(part.max()) for part in energies))
    found = []
    for part, energy in zip(placed, energies, strict=True):
        scaled = (part - low[:, None, None]) / span[:, None, None]
        scaled[np.isinf(span)] = 0.5  # constant: grey
        rgb = (255 * np.clip(scaled, 0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
        found.append(Level(name, channels, share, rgb, energy, limits))
    return found


def draw_features(path: Path | str, image: Pixels, groups: Mapping[str, Sequence[Level]], title: str) -> Path:
    """Draw one image next to its levels as PNG or SVG: for each group (backbone, neck) a row of components above a row
    of energies. Cells are drawn over the image area that they cover."""
    columns = 1 + max(len(levels) for levels in groups.values())
    height, width = image.shape[:2]
    cell = min(max(_CELL * height / width, 0.6), 2.5 * _CELL)
    figure = new_figure(_CELL * columns, len(groups) * (2 * cell + 1.15) + 0.6)
    # about 8 letters of this size per inch
    lines = "\n".join(shorten(line, round(8 * _CELL * columns)) for line in title.splitlines())
    figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    grid = figure.subplots(2 * len(groups), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for at, (group, levels) in enumerate(groups.items()):
        above, below = grid[2 * at], grid[2 * at + 1]
        _panel(above[0], image, f"image, {height}x{width}")
        _note(below[0], group)
        for axes, level in zip(above[1:], levels, strict=False):
            cells = "x".join(map(str, level.rgb.shape[:2]))
            text = (
                f"{level.name}: {cells} cells\n3 of {level.channels} components: {100 * level.share:.0f} % of variance"
            )
            _panel(axes, level.rgb, text, (width, height))
        for axes, level in zip(below[1:], levels, strict=False):
            _energy(figure, axes, level, (width, height))
    return save(figure, path)


def _panel(axes: Axes, pixels: Pixels, text: str, size: tuple[int, int] | None = None) -> None:
    """Draw pixels stretched to the image's width and height, so that all panels have its shape."""
    width, height = size or (pixels.shape[1], pixels.shape[0])
    axes.imshow(pixels, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_title(text, loc="left", fontsize=8, parse_math=False)


def _note(axes: Axes, group: str) -> None:
    text = (
        f"{group}\n\nAbove: the three directions in\nwhich cells differ most, as red,\ngreen and blue. Equal colours are\n"
        "equal features, in all images.\n\nRight: energy, the length of each\ncell's vector of features."
    )
    axes.text(0, 1, text, transform=axes.transAxes, va="top", fontsize=8, parse_math=False)


def _energy(figure: Figure, axes: Axes, level: Level, size: tuple[int, int]) -> None:
    low, high = level.limits
    picture = axes.imshow(
        level.energy,
        cmap="viridis",
        vmin=low,
        vmax=high if high > low else low + 1,
        interpolation="nearest",
        extent=(0, size[0], size[1], 0),
    )
    axes.set_title(f"{level.name}: energy", loc="left", fontsize=8, parse_math=False)
    bar = figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.9, aspect=24, pad=0.02)
    digits = max(0, 1 - math.floor(math.log10(high - low))) if high > low else 1
    bar.set_ticks([low, (low + high) / 2, high] if high > low else [low])
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:.{digits}f}")
    bar.ax.tick_params(labelsize=7, length=2)
