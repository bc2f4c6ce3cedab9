"""GMACs against input scale (PVT v1, Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvtctl.cost.counting import Cost
from pvtctl.io.files import atomic_path

# Okabe and Ito's palette without its yellow: distinguishable with every kind of colour vision, and in grey by the markers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^vPX"


def plot_costs(costs: Sequence[Cost], path: Path | str) -> None:
    """Draw one line per backbone, GMACs over the input scale, into `path` (PNG, SVG or PDF by its ending).

    The scale of a size is the square root of its area, 224 for 224x224. A line more than twice as high as all others
    leaves the picture, as ViT-Small/16 does in the paper, with a note where it would end.
    """
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[float, float]]] = {}
    for cost in costs:
        lines.setdefault(cost.backbone, []).append(((cost.size[0] * cost.size[1]) ** 0.5, cost.macs / 1e9))
    for points in lines.values():
        points.sort()
    lines = dict(sorted(lines.items(), key=lambda line: -line[1][-1][1]))  # the legend has the order of the lines
    ranked = sorted((points[-1][1] for points in lines.values()), reverse=True)
    # above the second line if the highest would compress it
    top = 1.1 * (ranked[1] if len(ranked) > 1 and ranked[0] > 2 * ranked[1] else ranked[0])
    right = max(points[-1][0] for points in lines.values())

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for at, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        xs, ys = zip(*points, strict=True)
        style = "-" if at < len(_COLOURS) else "--"
        axes.plot(
            xs, ys, style, color=colour, marker=_MARKERS[at % len(_MARKERS)], markersize=5, linewidth=1.8, label=name
        )
        if points[-1][1] > top:
            _say_where_it_ends(axes, points, top, colour)
    axes.set(xlim=(0, right * 1.02), ylim=(0, top), xlabel="input scale (pixels)")
    axes.set_ylabel(f"GMACs per image (1 MAC = 2 FLOPs), convention {costs[0].convention}")
    axes.set_title("Cost against input scale", loc="left")
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=Path(path).suffix.lstrip(".").lower())


def _say_where_it_ends(axes: Any, points: list[tuple[float, float]], top: float, colour: str) -> None:
    """Write the last value next to the point where the line crosses the upper edge."""
    last = points[-1]
    above = next(at for at, (_, y) in enumerate(points) if y > top)
    (x0, y0), (x1, y1) = points[max(above - 1, 0)], points[above]
    x = x1 if y1 == y0 else x0 + (x1 - x0) * (top - y0) / (y1 - y0)
    note = f"{last[1]:.0f} at {last[0]:.0f}"
    offset = {"xytext": (6, -4), "textcoords": "offset points", "ha": "left", "va": "top"}
    axes.annotate(note, (x, top), color=colour, fontsize=9, **offset)
