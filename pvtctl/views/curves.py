"""How a run went: loss, accuracy and learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, new_figure, save, style

_SCORE_LINES = ((BLUE, False), (ORANGE, True), (GREEN, False), (PURPLE, True))
"""Colour and dashes of the scores, in order."""
_SMOOTH_FROM = 40
"""Curves of more points than this are drawn faint, with their running mean over them."""


@dataclass(frozen=True)
class Shown:
    """Which numbers of a run are drawn, by their keys, with their labels."""

    loss: str
    title: str
    scores: tuple[tuple[str, str], ...]
    """Of evaluations; fractions."""
    training: tuple[tuple[str, str], ...] = ()
    """Of training, beside the scores; fractions."""


CLASSIFICATION = Shown("cross entropy, nats", "Validation accuracy", (("top1", "top-1"), ("top5", "top-5")))
DETECTION = Shown(
    "sum of the losses",
    "Validation AP",
    (("box_ap", "box AP"), ("box_ap50", "box AP50"), ("mask_ap", "mask AP"), ("mask_ap50", "mask AP50")),
    (("recall", "recall in training"),),
)


SEGMENTATION = Shown(
    "sum of the losses",
    "Validation",
    (("miou", "mIoU"), ("pixel_acc", "pixel accuracy"), ("boundary_f", "boundary F")),
    (("pixel_acc", "pixel accuracy in training"),),
)
DEPTH = Shown(
    "sum of the losses",
    "Validation: pixels within a factor",
    (("delta1", "delta < 1.25"), ("delta2", "delta < 1.25^2"), ("delta3", "delta < 1.25^3")),
)
SHOWN = {"classification": CLASSIFICATION, "detection": DETECTION, "segmentation": SEGMENTATION, "depth": DEPTH}
"""By task."""


def draw_curves(
    path: Path | str,
    *,
    training: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    steps_per_epoch: int,
    shown: Shown = CLASSIFICATION,
    paper_score: float | None = None,
) -> Path:
    """Draw a run as a PNG of 1560 x 480 pixels, for up to three questions: does it learn, does it score, at what rate.

    `training` rows hold `step`, `loss`, `lr`; `evaluations` rows `step`, maybe `loss`, and the scores of `shown`.
    `paper_score`, a fraction, is drawn as a line only where the run is the paper's experiment at the paper's scale.
    """
    figure = new_figure(13, 4)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = f"step ({steps_per_epoch} an epoch)"

    style(loss, title="Loss", xlabel=epochs, ylabel=shown.loss)
    _line(loss, training, "loss", BLUE, "training (augmented)")
    _line(loss, evaluations, "loss", ORANGE, "validation", points=True)

    style(accuracy, title=shown.title, xlabel=epochs, ylabel="percent")
    for (key, label), (color, dashed) in zip(shown.scores, _SCORE_LINES, strict=False):
        _line(accuracy, evaluations, key, color, label, points=True, scale=100, dashed=dashed)
    for key, label in shown.training:
        _line(accuracy, training, key, GREY, label, scale=100)
    if paper_score is not None:
        accuracy.axhline(100 * paper_score, color=RED, linestyle=":", label=f"{shown.scores[0][1]} in the paper")
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
    """One curve; values that are missing or not finite are left out."""
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
    """Mean of each value and the up to `width - 1` before it."""
    means, total = [], 0.0
    for at, value in enumerate(values):
        total += value - (values[at - width] if at >= width else 0.0)
        means.append(total / min(at + 1, width))
    return means
