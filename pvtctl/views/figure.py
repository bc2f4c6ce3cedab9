"""What all pictures share: colours, and a figure without a display that is written in one step.

Matplotlib takes a second to import, so this module is imported only when something is drawn.
"""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pvtctl.errors import UsageError
from pvtctl.io.files import atomic_path

# Okabe and Ito's palette: told apart with any common colour blindness, and in grey by lightness.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
PURPLE = "#CC79A7"

PICTURE_KINDS = ("png", "svg")
"""What `save` writes."""


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of `width` x `height` inches, with room made for labels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Plain axes: left and bottom lines, a light grid, and text that is never read as mathematics."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel(xlabel, fontsize=10, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=10, parse_math=False)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def save(figure: Figure, path: Path | str, *, dpi: int = 120) -> Path:
    """Write a PNG or an SVG, by the path's ending, in one step; the same figure gives the same bytes.

    An SVG's letters are drawn as outlines, so that it looks the same wherever it is opened; `dpi` is then that of photos
    inside it. Letters that the bundled font lacks become boxes, without a warning. Raises UsageError for other endings.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in PICTURE_KINDS:
        raise UsageError(f"cannot write a picture as {path.name}", "the name must end in .png or .svg")
    options: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {}
    # the bundled font whatever the machine has, and no file of the user's may change how a report looks
    with (
        matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "pvtctl"}),
        warnings.catch_warnings(),
        atomic_path(path) as temporary,
    ):
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(temporary, format=kind, dpi=dpi, **options)
    return path


def head(figure: Figure, title: str) -> None:
    """The title of a whole figure, in lines that its width holds; the figure grows by what further lines need."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(title, max(round(7.5 * width), 20))  # bold letters of this size an inch
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    figure.set_size_inches(width, height + 0.2 * (len(lines) - 1))


def shorten(text: str, length: int) -> str:
    """`text` in at most `length` characters: the end is what tells file names apart, the start what tells words apart."""
    if len(text) <= length:
        return text
    return "…" + text[-(length - 1) :] if "/" in text else text[: length - 1] + "…"
