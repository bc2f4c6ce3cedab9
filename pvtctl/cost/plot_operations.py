"""Picture of the operations of each stage, next to those with R = 1, and of its attention matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvtctl.cost.operations import OPERATIONS, Operations
from pvtctl.io.files import atomic_path
from pvtctl.io.names import plural

# Okabe and Ito's palette; operations that SRA changes are saturated, the others grey.
_COLOURS = {
    "patch embedding": "#d9d9d9",
    "Q": "#bdbdbd",
    "K": "#56B4E9",
    "V": "#0072B2",
    "SR": "#E69F00",
    "QK^T": "#D55E00",
    "AV": "#CC79A7",
    "projection": "#969696",
    "FFN": "#636363",
}


def plot_operations(found: Sequence[Operations], path: Path | str) -> None:
    """Draw a row per model into `path` (PNG, SVG or PDF by its ending): GMACs of each stage by operation, as it is and with
    R = 1, and the entries of its attention matrices, on a logarithmic axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 + 3.6 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), 2, squeeze=False, width_ratios=[3, 2])
    for each, (left, right) in zip(found, rows, strict=True):
        _draw_macs(left, each)
        _draw_matrices(right, each)
    handles, labels = rows[0][0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix.lstrip(".").lower())


def _draw_macs(axes: Any, each: Operations) -> None:
    stages = [size.stage for size in each.attention]
    bars = [(each, -0.2, "")] if each.unreduced is None else [(each, -0.2, ""), (each.unreduced, 0.2, "//")]
    for model, shift, hatch in bars:
        macs = {(row.stage, row.name): row.macs / 1e9 for row in model.rows}
        below = [0.0] * len(stages)
        for name in OPERATIONS:
            heights = [macs.get((stage, name), 0.0) for stage in stages]
            at = [place + (shift if len(bars) > 1 else 0.0) for place in range(len(stages))]
            look = {"color": _COLOURS[name], "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.bar(at, heights, 0.38, below, label=name if any(heights) and not hatch else None, **look)
            below = [low + height for low, height in zip(below, heights, strict=True)]
    beside = "" if each.unreduced is None else "; hatched: with R = 1"
    axes.set_title(f"{each.cost.backbone} at {each.cost.size[0]}x{each.cost.size[1]}{beside}", loc="left", fontsize=11)
    axes.set_xticks(range(len(stages)), stages)
    axes.set_xlim(-0.6, max(len(stages), 4) - 0.4)
    axes.set_ylabel("GMACs per image")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_matrices(axes: Any, each: Operations) -> None:
    places = range(len(each.attention))
    entries = [size.entries for size in each.attention]
    whole = [size.entries for size in (each.unreduced or each).attention]
    if each.unreduced is not None:
        axes.bar(places, whole, 0.6, color="#d9d9d9", hatch="//", edgecolor="white", linewidth=0.5)
    axes.bar(places, entries, 0.6 if each.unreduced is None else 0.35, color="#D55E00")
    for place, size, top in zip(places, each.attention, whole, strict=True):
        text = f"{size.queries} x {size.keys}\n{plural(size.heads, 'head')}"
        axes.annotate(text, (place, top), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(min(entries) / 10, 6 * max(whole))
    axes.set_title("entries of a block's attention matrices", loc="left", fontsize=11)
    axes.set_xticks(places, [size.stage for size in each.attention])
    axes.set_xlim(-0.6, max(len(places), 4) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
