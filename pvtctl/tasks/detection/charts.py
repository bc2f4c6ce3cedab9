"""Charts of a detector's results: precision-recall curves, confusion with background, error kinds, AP by class."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pvtctl.tasks.detection.scoring.analysis import Curve, DetectionAnalysis
from pvtctl.tasks.detection.scoring.compared import RECALLS
from pvtctl.views.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, draw_matrix, new_figure, save, shorten, style

_SHOWN_CURVES = 6
_SHOWN_CLASSES = 40


def draw_precision_recall(path: Path | str, analysis: DetectionAnalysis) -> Path:
    """Draw the mean curves at IoU 0.5, 0.75 and 0.5 to 0.95, and those of single classes at IoU 0.5.

    Of many classes the three best and the three worst are drawn in colour, the others in grey.
    """
    figure = new_figure(11.0, 4.6)
    left, right = figure.subplots(1, 2)
    for axes, title in ((left, "Mean over classes"), (right, "Classes at IoU 0.5")):
        style(axes, title=title, xlabel="recall", ylabel="precision")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
    for curve, colour, dash in zip(analysis.curves, (BLUE, ORANGE, GREEN), ("-", "--", ":"), strict=True):
        left.plot(RECALLS, curve.precision, color=colour, ls=dash, lw=2, label=_legend(curve))
    there = sorted((c for c in analysis.class_curves if math.isfinite(c.ap)), key=lambda c: -c.ap)
    half = _SHOWN_CURVES // 2
    chosen = there if len(there) <= _SHOWN_CURVES else [*there[:half], *there[-half:]]
    for curve in there:
        if curve not in chosen:
            right.plot(RECALLS, curve.precision, color="#cccccc", lw=0.8)
    colours = (BLUE, ORANGE, GREEN, PURPLE, RED, "black")
    for at, curve in enumerate(chosen):
        right.plot(RECALLS, curve.precision, color=colours[at], ls=("-", "--")[at % 2], lw=1.8, label=_legend(curve))
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            legend = axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9, loc="lower left")
            for text in legend.get_texts():
                text.set_parse_math(False)
        else:
            axes.text(0.5, 0.5, "nothing to find", color=GREY, ha="center")
    return save(figure, path)


def _legend(curve: Curve) -> str:
    return f"{shorten(curve.name, 24)}: AP {100 * curve.ap:.1f}" if math.isfinite(curve.ap) else curve.name


def draw_detection_confusion(path: Path | str, analysis: DetectionAnalysis) -> Path:
    """Draw the confusion matrix in percent of the row, at the analysis' threshold.

    The last column is missed objects; the last row detections on background, in percent of all of them by
    class. Of many classes those with the most confusions are drawn.
    """
    counts, names = analysis.confusion, analysis.class_names
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    used = np.sort(np.argsort(-wrong[:-1], kind="stable")[:_SHOWN_CLASSES])
    kept = np.append(used, len(names))
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share = share[np.ix_(kept, kept)]
    labels = [names[at] for at in used.tolist()]
    figure, axes = draw_matrix(share, [*labels, "background"], [*labels, "missed"], label="percent of the row")
    many = f", {len(used)} of {len(names)} classes" if len(used) < len(names) else ""
    at_score = f"score from {analysis.threshold:.2f}" if math.isfinite(analysis.threshold) else "nothing right"
    style(axes, title=f"Confusion at IoU 0.5, {at_score}{many}", xlabel="found as", ylabel="is", grid=False)
    axes.axhline(len(kept) - 1.5, color=GREY, lw=1)
    axes.axvline(len(kept) - 1.5, color=GREY, lw=1)
    return save(figure, path)


def draw_error_kinds(path: Path | str, analysis: DetectionAnalysis) -> Path:
    """Draw how often each kind of error occurs, and what AP at IoU 0.5 would gain without it."""
    figure = new_figure(9.0, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [error.name for error in analysis.errors]
    counts = [error.count for error in analysis.errors]
    gains = [100 * error.ap50_gain if math.isfinite(error.ap50_gain) else 0.0 for error in analysis.errors]
    for axes, values, colour, title, label, digits in (
        (left, counts, ORANGE, "How often", "errors among all detections", 0),
        (right, gains, BLUE, "What it costs", "gain of AP50 without it, points", 1),
    ):
        bars = axes.barh(names, values, color=colour)
        axes.bar_label(bars, [f"{value:.{digits}f}" for value in values], padding=3, fontsize=9)
        style(axes, title=title, xlabel=label)
        axes.set_xlim(0, max(*values, 1e-9) * 1.18)
        axes.grid(False, axis="y")
    left.invert_yaxis()
    return save(figure, path)


def draw_class_ap(path: Path | str, analysis: DetectionAnalysis) -> Path:
    """Draw AP and AP50 of each class in the data, best first; of many the twenty best and the twenty worst."""
    rows = sorted((row for row in analysis.classes if math.isfinite(row.ap)), key=lambda row: -row.ap)
    many = len(rows) > _SHOWN_CLASSES
    shown = [*rows[: _SHOWN_CLASSES // 2], *rows[-_SHOWN_CLASSES // 2 :]] if many else rows
    figure = new_figure(7.5, max(2.2, 0.24 * len(shown) + 1.3))
    axes = figure.subplots()
    title = f"AP of classes{f', {_SHOWN_CLASSES} of {len(rows)}: best and worst' if many else ''}"
    style(axes, title=title, xlabel="AP, percent")
    at = np.arange(len(shown))
    axes.barh(at, [100 * row.ap50 for row in shown], color="#cfe3f1", label="AP50")
    axes.barh(at, [100 * row.ap for row in shown], color=BLUE, height=0.5, label="AP")
    names = [f"{shorten(row.name, 24)} ({row.objects})" for row in shown]
    axes.set_yticks(at, names, fontsize=9)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if shown:
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", fontsize=9, loc="lower right")
    else:
        axes.text(50, 0, "no objects in the annotations", ha="center", color=GREY)
    return save(figure, path)
