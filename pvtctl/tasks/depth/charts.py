"""Charts of depth: errors by distance, histograms of true and predicted depth, and the errors of single images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from pvtctl.tasks.depth.metric import DISTANCES, Distances
from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure, save, style

_RARE = 5e-4
"""Share of the true pixels that a bin must have: with fewer, the mean error is not meaningful."""


def draw_error_by_distance(path: Path | str, distances: Distances, measured: str) -> Path:
    """Draw the mean error in percent of the true distance, and its sign. `measured`: metric in words."""
    kept = distances.truth > _RARE * max(int(distances.truth.sum()), 1)

    def draw(axes: Axes) -> None:
        middle, error = np.sqrt(DISTANCES[:-1] * DISTANCES[1:])[kept], 100 * distances.abs_rel[kept]
        axes.plot(middle, error, color=BLUE, lw=2, marker=".", label="absolute error, mean over pixels")
        bias = 100 * distances.bias[kept]
        axes.plot(middle, bias, color=RED, lw=1.5, ls="--", label="bias (above 0: too far)")
        axes.axhline(0, color=GREY, lw=0.8)

    labels = ("true depth, metres", "percent of the true depth")
    return _draw_distances(path, measured, "Error by distance", labels, kept, draw)


def draw_depth_histogram(path: Path | str, distances: Distances, measured: str) -> Path:
    """Draw histograms of the scored pixels by true and by predicted distance."""
    total = max(int(distances.truth.sum()), 1)
    kept = (distances.truth > _RARE * total) | (distances.predicted > _RARE * total)

    def draw(axes: Axes) -> None:
        axes.stairs(100 * distances.truth / total, DISTANCES, fill=True, color=GREY, alpha=0.45, label="truth")
        axes.stairs(100 * distances.predicted / total, DISTANCES, color=BLUE, lw=2, label="prediction")

    labels = ("depth, metres", "percent of the scored pixels")
    return _draw_distances(path, measured, "True and predicted distances", labels, kept, draw)


def _draw_distances(
    path: Path | str,
    measured: str,
    title: str,
    labels: tuple[str, str],
    kept: NDArray[np.bool_],
    draw: Callable[[Axes], None],
) -> Path:
    """A chart over the bins of distance that are `kept`."""
    figure = new_figure(8.0, 4.2)
    _say(figure, measured)
    axes = figure.subplots()
    style(axes, title=title, xlabel=labels[0], ylabel=labels[1])
    if kept.any():
        draw(axes)
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)
        _distance_axis(axes, kept)
    else:
        axes.text(0.5, 0.5, "nothing was scored", transform=axes.transAxes, ha="center", color=GREY)
    return save(figure, path)


def draw_image_errors(path: Path | str, rows: NDArray[Any], measured: str) -> Path:
    """Draw abs_rel and delta1 of each image, from the best to the worst; `rows` are those of the metric."""
    figure = new_figure(9.0, 3.8)
    _say(figure, measured)
    left, right = figure.subplots(1, 2)
    for axes, name, title, best_first, colour in (
        (left, "abs_rel", "abs_rel of each image, percent", 1, ORANGE),
        (right, "delta1", "delta1 of each image, percent", -1, GREEN),
    ):
        style(axes, title=title, xlabel="images, from the best to the worst")
        values = 100 * np.sort(rows[name].astype(np.float64))[::best_first]
        if not len(values):
            axes.text(0.5, 0.5, "nothing was scored", transform=axes.transAxes, ha="center", color=GREY)
            continue
        place = np.arange(1, len(values) + 1)
        axes.plot(place, values, color=colour, lw=2, marker="." if len(values) <= 60 else "")
        axes.axhline(values.mean(), color=GREY, ls="--", lw=1.2, label=f"mean {values.mean():.1f}")
        axes.axhline(np.median(values), color=GREY, ls=":", lw=1.2, label=f"median {np.median(values):.1f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0, top=102 if name == "delta1" else None)
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)
    return save(figure, path)


def _say(figure: Figure, measured: str) -> None:
    """Write `measured` below the charts in small print, in two lines broken at the semicolon nearest to the middle."""
    breaks = [at for at, letter in enumerate(measured) if letter == ";"]
    if breaks:
        at = min(breaks, key=lambda at: abs(at - len(measured) / 2))
        measured = f"{measured[: at + 1]}\n{measured[at + 2 :]}"
    figure.supxlabel(measured, fontsize=8, color=GREY, parse_math=False)


def _distance_axis(axes: Axes, kept: NDArray[np.bool_]) -> None:
    """From the first bin to the last, logarithmic if they are far apart, with plain numbers."""
    edges = np.flatnonzero(kept)
    low, high = float(DISTANCES[edges[0]]), float(DISTANCES[edges[-1] + 1])
    axes.set_xlim(low, high)
    if high / low > 12:
        axes.set_xscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.set_xticks([tick for tick in _ROUND if low <= tick <= high])
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter("")


_ROUND = [digit * 10.0**decade for decade in range(-2, 4) for digit in (1, 2, 5)]
