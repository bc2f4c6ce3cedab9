"""Common code of all figures: colours, figures without a display, and atomic writing.

Matplotlib takes a second to import, so this module is imported only when something is drawn.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path

# Okabe and Ito's palette: distinguishable with any common colour blindness, and in grey by lightness.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
PURPLE = "#CC79A7"

PICTURE_KINDS = ("png", "svg")
"""Formats of `save`."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches, with layout that leaves room for labels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Style axes: left and bottom lines, a light grid, and text that is not parsed as mathematics."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel(xlabel, fontsize=10, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=10, parse_math=False)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def draw_matrix(
    share: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    largest: float = 14.0,
    sized_by: int | None = None,
    numbered: float = 1e-9,
) -> tuple[Figure, Axes]:
    """A figure with a matrix of percentages, for a confusion matrix; `label` describes them.

    Colour follows the square root, so that rare confusions show. Up to 20 rows carry the numbers of at least `numbered`,
    up to 60 their names. The side grows with the number of rows (`sized_by`) to `largest` inches.
    """
    count = sized_by or len(rows)
    side = min(max(0.42 * count, 4.5), largest) if count <= 60 else 10.0
    figure = new_figure(side + 2.2, side + 1.4)
    axes = figure.subplots()
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100), aspect="auto", interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.7, label=label)
    if len(rows) <= 60:
        size = 9 if count <= 30 else 7
        names = [shorten(name, 18) for name in columns]
        axes.set_xticks(range(len(columns)), names, rotation=60, ha="right", fontsize=size)
        axes.set_yticks(range(len(rows)), [shorten(name, 18) for name in rows], fontsize=size)
        for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
            text.set_parse_math(False)
            text.set_rotation_mode("anchor")
    if len(rows) <= 20:
        for row, column in np.argwhere(share >= numbered).tolist():
            colour = "white" if share[row, column] > 30 else "black"
            axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return figure, axes


def save(figure: Figure, path: Path | str, *, dpi: int = 120) -> Path:
    """Write a PNG or SVG, by the path's suffix, atomically; the same figure gives the same bytes.

    Text in an SVG is drawn as outlines, so that it looks the same everywhere; `dpi` is then that of images in it.
    Letters that the bundled font lacks become boxes, without a warning. Raises UsageError for other suffixes.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in PICTURE_KINDS:
        raise UsageError(f"cannot write a picture as {path.name}", "the name must end in .png or .svg")
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {}
    # the bundled font on every machine, and no user configuration, so that reports always look the same
    with (
        matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "pvtctl"}),
        warnings.catch_warnings(),
        atomic_path(path) as temporary,
    ):
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(temporary, format=kind, dpi=dpi, **options)
    return path


def head(figure: Figure, title: str) -> None:
    """Set the figure's title, wrapped to its width; the figure grows by the height of additional lines."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(title, max(round(7.5 * width), 20))  # bold letters of this size per inch
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    figure.set_size_inches(width, height + 0.2 * (len(lines) - 1))


def shorten(text: str, length: int) -> str:
    """Shorten `text` to `length` characters: paths keep their end, other text its start."""
    if len(text) <= length:
        return text
    return "…" + text[-(length - 1) :] if "/" in text else text[: length - 1] + "…"
