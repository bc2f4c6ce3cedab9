"""Curves of a run (loss, scores and learning rate over steps), and overlaid curves of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pvtctl.errors import UsageError
from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, save, style
from pvtctl.views.labels import CurveLabels

_SCORE_LINES = ((BLUE, False), (ORANGE, True), (GREEN, False), (PURPLE, True))
"""Colour and dashes of the scores, in order."""
_SMOOTH_FROM = 40
"""Curves with more points than this are drawn faint, with their running mean on top."""


def draw_curves(
    path: Path | str,
    *,
    training: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    steps_per_epoch: int,
    labels: CurveLabels,
    paper_score: float | None = None,
) -> Path:
    """Draw a run as a PNG of 1560 x 480 pixels, with up to three panels: loss, scores and learning rate.

    `training` rows have `step`, `loss`, `lr`; `evaluations` rows `step`, maybe `loss`, and the scores of `labels`.
    `paper_score`, a fraction, is drawn as a line; pass it only for the paper's experiment at the paper's scale.
    """
    figure = new_figure(13, 4)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = f"step ({steps_per_epoch} an epoch)"

    style(loss, title="Loss", xlabel=epochs, ylabel=labels.loss)
    _line(loss, training, "loss", BLUE, "training (augmented)")
    _line(loss, evaluations, "loss", ORANGE, "validation", points=True)

    style(accuracy, title=labels.title, xlabel=epochs, ylabel="percent")
    for (key, label), (color, dashed) in zip(labels.scores, _SCORE_LINES, strict=False):
        _line(accuracy, evaluations, key, color, label, points=True, scale=100, dashed=dashed)
    for key, label in labels.training:
        _line(accuracy, training, key, GREY, label, scale=100)
    if paper_score is not None:
        accuracy.axhline(100 * paper_score, color=RED, linestyle=":", label=f"{labels.scores[0][1]} in the paper")
    accuracy.set_ylim(0, 102)

    style(rate, title="Learning rate", xlabel=epochs)
    _line(rate, training, "lr", GREY, "")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")

    last = max((row["step"] for row in [*training, *evaluations]), default=1)
    for axes in (loss, accuracy, rate):
        axes.set_xlim(0, max(last, 1) * 1.02)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=9, loc="best")
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", color=GREY)
    return save(figure, path)


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    color: str,
    label: str,
    *,
    points: bool = False,
    scale: float = 1.0,
    dashed: bool = False,
) -> None:
    """Draw one curve; missing and non-finite values are left out."""
    values = {row["step"]: scale * row[key] for row in rows if key in row and math.isfinite(row[key])}
    if not values:
        return
    steps = sorted(values)
    heights = [values[step] for step in steps]
    smooth = not points and key == "loss" and len(steps) > _SMOOTH_FROM
    marker = "o" if len(steps) <= _SMOOTH_FROM and (points or len(steps) <= 3) else ""
    axes.plot(
        steps,
        heights,
        color=color,
        alpha=0.3 if smooth else 1.0,
        linewidth=1.8,
        linestyle="--" if dashed else "-",
        marker=marker,
        markersize=4,
        label=None if smooth else label,
    )
    if smooth:
        axes.plot(steps, running_mean(heights, len(heights) // 20 + 1), color=color, linewidth=1.8, label=label)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width - 1` values before it."""
    means, total = [], 0.0
    for at, value in enumerate(values):
        total += value - (values[at - width] if at >= width else 0.0)
        means.append(total / min(at + 1, width))
    return means


@dataclass(frozen=True)
class Series:
    """One curve of an overlay: a run, or the mean of several with their spread."""

    label: str
    xs: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float] | None = None
    """With `highs`, the edges of a band around the means."""
    highs: Sequence[float] | None = None
    paper: float | None = None
    """The published value, in the unit of `means`: a dotted line."""


@dataclass(frozen=True)
class CurvePanel:
    """Axes with several curves."""

    title: str
    ylabel: str
    series: Sequence[Series]
    from_zero: bool = False
    logarithmic: bool = False


_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Seven markers and six colours: 42 curves before a pair repeats."""
_DASHES = ("-", "--", "-.")
_MOST_MARKERS = 12
"""Maximum number of markers on a curve; more would hide it."""
_LONGEST = 42
"""Maximum number of letters of a legend label."""


def draw_panels(
    path: Path | str, panels: Sequence[CurvePanel], xlabel: str, *, title: str = "", same_xs: bool = True
) -> Path:
    """Draw panels side by side as PNG or SVG, with one legend: a label has the same colour and marker in all of them.

    With `same_xs` they share the range of their x axes. Non-finite values are left out. Raises UsageError if no panel
    has another.
    """
    labels = list(dict.fromkeys(series.label for panel in panels for series in panel.series))
    if not any(math.isfinite(value) for panel in panels for series in panel.series for value in series.means):
        raise UsageError(
            "there is nothing to draw: no curve has a value yet", "wait for the first lines of metrics.jsonl"
        )
    columns = _columns(labels, len(panels))
    figure = new_figure(8.6 if len(panels) == 1 else 5.2 * len(panels), 4.4 + 0.22 * -(-len(labels) // columns))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharex=same_xs)[0], panels, strict=True):
        style(axes, title=panel.title, xlabel=xlabel, ylabel=panel.ylabel)
        for series in panel.series:
            _overlaid(axes, series, labels.index(series.label))
        if all(float(x).is_integer() for series in panel.series for x in series.xs):
            axes.xaxis.get_major_locator().set_params(integer=True)
        if not axes.lines:
            axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", color=GREY)
        if panel.logarithmic and all(value > 0 for series in panel.series for value in series.means):
            axes.set_yscale("log")
        elif panel.from_zero:
            axes.set_ylim(bottom=0)
    _legend(figure, [series for panel in panels for series in panel.series], columns)
    return save(figure, path)


def _columns(labels: Sequence[str], panels: int) -> int:
    """Number of legend columns below this number of panels."""
    told = len(" (dotted: paper 40.4)") if panels == 1 else 0
    letters = 8 + max(min(len(label), _LONGEST) + told for label in labels)
    return max(1, min(len(labels), (110 if panels == 1 else 62 * panels) // letters))


def _legend(figure: Figure, series: Sequence[Series], columns: int) -> None:
    """Draw the legend below all panels: a line and marker per label, with the published value."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    printed = {each.label: f" (dotted: paper {each.paper:g})" for each in series if each.paper is not None}
    texts = [_short(label) + printed.get(label, "") for label in handles]
    legend = figure.legend(
        list(handles.values()), texts, loc="outside lower left", ncols=columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _overlaid(axes: Axes, series: Series, at: int) -> None:
    """Draw one curve of an overlay; many noisy points are drawn faint, with their running mean on top."""
    color, marker = _COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)]
    dashes = _DASHES[at // len(_COLOURS) % len(_DASHES)]
    kept = [place for place, value in enumerate(series.means) if math.isfinite(value)]
    if not kept:
        return
    xs, ys = [series.xs[place] for place in kept], [series.means[place] for place in kept]
    if series.lows is not None and series.highs is not None:
        lows, highs = ([edge[place] for place in kept] for edge in (series.lows, series.highs))
        axes.fill_between(xs, lows, highs, color=color, alpha=0.18, linewidth=0)
    if len(ys) > _SMOOTH_FROM and _is_noisy(ys):
        axes.plot(xs, ys, color=color, alpha=0.25, linewidth=1.2)
        ys = running_mean(ys, len(ys) // 20 + 1)
    axes.plot(
        xs,
        ys,
        color=color,
        linestyle=dashes,
        linewidth=1.8,
        marker=marker,
        markersize=5,
        markevery=max(1, -(-len(xs) // _MOST_MARKERS)),
        label=series.label,
    )
    if series.paper is not None:
        axes.axhline(series.paper, color=color, linestyle=":", linewidth=1.6)


def _short(name: str) -> str:
    """Shorten a long name in the middle, as names of runs differ at either end."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-(_LONGEST // 2 - 1) :]}"


def _is_noisy(values: Sequence[float]) -> bool:
    """Whether the values change direction more often than a schedule."""
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(values, values[1:], values[2:], strict=False))
    return turns > len(values) / 8
