"""Charts of a segmentation's results: pixel confusion and IoU of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvtctl.tasks.segmentation.metric import ClassIou
from pvtctl.views.figure import BLUE, GREY, ORANGE, draw_matrix, new_figure, save, shorten, style

_SHOWN_CLASSES = 40


def draw_pixel_confusion(path: Path | str, confusion: NDArray[np.int64], class_names: Sequence[str]) -> Path:
    """Draw the pixel confusion matrix, in percent of the true class.

    `confusion` (K, K + 1) counts; the last column, classes that the data does not have, is drawn only if it is used.
    Of many classes those with the most wrong pixels are drawn.
    """
    true, found, right = confusion.sum(axis=1), confusion.sum(axis=0)[:-1], np.diag(confusion)
    wrong = true + found - 2 * right
    many = len(class_names) > _SHOWN_CLASSES
    rows = np.argsort(-wrong, kind="stable")[:_SHOWN_CLASSES]
    rows = np.sort(rows[(true + found)[rows] > 0] if many and right.any() else rows)
    columns = np.append(rows, len(class_names)) if confusion[:, -1].any() else rows
    share = (100 * confusion / np.maximum(true[:, None], 1))[np.ix_(rows, columns)]
    names = [class_names[at] for at in rows.tolist()]
    figure, axes = draw_matrix(
        share,
        names,
        [*names, "other"][: len(columns)],
        label="percent of the true class's pixels",
        sized_by=len(columns),
        numbered=0.5,
    )
    title = f"Confusion of pixels{f', {len(rows)} of {len(class_names)} classes' if many else ''}"
    style(axes, title=title, xlabel="taken for", ylabel="is", grid=False)
    return save(figure, path)


def draw_class_iou(path: Path | str, classes: Sequence[ClassIou]) -> Path:
    """Draw IoU, accuracy and boundary F of each class that occurs, best first; of many the twenty best and the twenty worst.

    Each name has the class's share of the labelled pixels.
    """
    rows = sorted((row for row in classes if math.isfinite(row.iou)), key=lambda row: -row.iou)
    pixels = max(1, sum(row.pixels for row in rows))
    many = len(rows) > _SHOWN_CLASSES
    shown = [*rows[: _SHOWN_CLASSES // 2], *rows[-_SHOWN_CLASSES // 2 :]] if many else rows
    figure = new_figure(7.5, max(2.4, 0.27 * len(shown) + 1.6))
    axes = figure.subplots()
    title = f"IoU of classes{f', {_SHOWN_CLASSES} of {len(rows)}: best and worst' if many else ''}"
    style(axes, title=title, xlabel="percent")
    at = np.arange(len(shown))
    axes.barh(at, [100 * row.accuracy for row in shown], color="#cfe3f1", label="accuracy")
    axes.barh(at, [100 * row.iou for row in shown], color=BLUE, height=0.5, label="IoU")
    axes.plot([100 * row.boundary_f for row in shown], at, "D", color=ORANGE, mec="white", label="boundary F")
    names = [f"{shorten(row.name, 24)} ({_share(row.pixels / pixels)})" for row in shown]
    axes.set_yticks(at, names, fontsize=9)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(0, 101)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if shown:
        figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    else:
        axes.text(50, 0, "no labelled pixels", ha="center", color=GREY)
    return save(figure, path)


def _share(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction == 0 or fraction >= 0.001 else "< 0.1 %"
