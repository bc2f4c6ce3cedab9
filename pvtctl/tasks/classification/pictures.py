"""Pictures of a classifier's results: confusion matrix, reliability diagram, sheets of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pvtctl.io.names import plural
from pvtctl.tasks.classification.metric import ReliabilityBin
from pvtctl.tasks.classification.predict import Guess
from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, RED, draw_matrix, new_figure, save, shorten, style


def draw_confusion(path: Path | str, matrix: Tensor, names: Sequence[str]) -> Path:
    """Draw the confusion matrix, in percent of the row.

    `matrix` (C, C + 1) int64 counts; the last column, predictions of classes that the data does not have, is drawn only
    where it is used.
    """
    counts = matrix.numpy()
    columns = [*names, "other"]
    if not counts[:, -1].any():
        counts, columns = counts[:, :-1], columns[:-1]
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    figure, axes = draw_matrix(share, names, columns, label="percent of the true class", largest=16.0)
    title = f"Confusion matrix, {plural(int(counts.sum()), 'image')}, {plural(len(names), 'class')}"
    style(axes, title=title, xlabel="predicted class", ylabel="true class", grid=False)
    return save(figure, path)


def draw_calibration(path: Path | str, bins: Sequence[ReliabilityBin], error: float) -> Path:
    """Draw a reliability diagram over a histogram of confidences; `error` is the expected calibration error."""
    filled = [row for row in bins if row.images]
    width = bins[0].high - bins[0].low
    figure = new_figure(5.4, 5.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    style(top, title=f"Calibration: expected error {100 * error:.1f} %", ylabel="accuracy, percent")
    centres = [50 * (row.low + row.high) for row in filled]
    top.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1.2, label="perfectly calibrated")
    top.bar(centres, [100 * row.accuracy for row in filled], width=95 * width, color=BLUE, label="accuracy in the bin")
    top.plot(
        centres, [100 * row.confidence for row in filled], color=ORANGE, marker="o", ls="", label="mean confidence"
    )
    top.set_ylim(0, 101)
    top.legend(frameon=False, fontsize=9, loc="upper left")
    style(bottom, xlabel="confidence of the prediction, percent", ylabel="images")
    bottom.bar(centres, [row.images for row in filled], width=95 * width, color=GREY)
    bottom.set_xlim(0, 100)
    bottom.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    return save(figure, path)


@dataclass(frozen=True)
class SheetImage:
    """One picture of a sheet."""

    pixels: np.ndarray
    """(H, W, 3) uint8."""
    truth: str
    prediction: str
    confidence: float
    """Of the prediction, a fraction."""
    id: str = ""
    """Its name, of which the end is shown."""
    loss: float | None = None
    """In nats."""


def draw_image_sheet(path: Path | str, images: Sequence[SheetImage], title: str, *, columns: int = 6) -> Path:
    """Draw images in rows, each framed and marked right or wrong (a tick or a cross, not colour alone)."""
    rows = max(1, -(-len(images) // columns))
    figure = new_figure(2.1 * columns, 2.75 * rows + 0.4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for at, axes in enumerate(grid.flat):
        axes.set_xticks([])
        axes.set_yticks([])
        if at >= len(images):
            axes.set_axis_off()
            continue
        image = images[at]
        right = image.truth == image.prediction
        axes.imshow(image.pixels)
        for spine in axes.spines.values():
            spine.set_color(GREEN if right else RED)
            spine.set_linewidth(2.5)
        verdict = "✓" if right else "✗"
        lines = [f"{verdict} {shorten(image.prediction, 17)} {100 * image.confidence:.0f}%"]
        if not right:
            lines.append(f"is {shorten(image.truth, 21)}")
        loss = "" if image.loss is None else f"loss {image.loss:.1f}  "
        if loss or image.id:
            lines.append(loss + shorten(image.id, 26 - len(loss)))
        axes.set_xlabel("\n".join(lines), fontsize=8, loc="left", parse_math=False)
    if not images:
        grid[0, 0].text(0, 0.5, "no images", color=GREY)
    return save(figure, path)


def draw_guesses(path: Path | str, image: np.ndarray, guesses: Sequence[Guess], title: str) -> Path:
    """Draw an image (H, W, 3) and bars of its most probable classes, as PNG or SVG; the true one is green."""
    figure = new_figure(9, 3.6)
    picture, bars = figure.subplots(1, 2, width_ratios=[1, 1.15])
    figure.suptitle(shorten(title, 100), x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    picture.imshow(image, interpolation="nearest" if max(image.shape) < 100 else None)
    picture.set_axis_off()
    style(bars, xlabel="probability, percent")
    known = any(guess.true for guess in guesses)
    for at, guess in enumerate(guesses):
        colour = GREEN if guess.true else RED if known else BLUE
        bars.barh(at, 100 * guess.share, color=colour, height=0.62)
        text = f"{shorten(guess.name, 34)} {100 * guess.share:.1f} %{' ✓ the true class' if guess.true else ''}"
        # above the bar, so that a long name has the whole width
        bars.text(0, at - 0.36, text, va="bottom", fontsize=9, parse_math=False)
    bars.set_ylim(len(guesses) - 0.5, -0.9)
    bars.set_xlim(0, 100)
    bars.set_yticks([])
    bars.spines["left"].set_visible(False)
    return save(figure, path)
