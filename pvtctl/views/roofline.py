"""Rooflines (Williams et al. 2009): speed of the parts of a model against their arithmetic intensity, under two limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvtctl.io.names import plural
from pvtctl.views.scatter import Ceiling, Point, ScatterPanel, draw_scatters

NAMED = 0.01
"""Least share of the time of a part with a label; those of less than a tenth of it are not drawn."""


@dataclass(frozen=True)
class RooflinePart:
    """One part of a model: its dotted name, its share of the time, and its speed."""

    name: str
    share: float
    macs_per_second: float
    bytes_per_second: float


def draw_roofline(
    path: Path | str, parts: Sequence[RooflinePart], macs_per_second: float, bytes_per_second: float, *, title: str
) -> Path:
    """Draw `parts` under the limits of arithmetic and of memory, as a PNG or SVG file.

    Parts of one stage, or one list of blocks, share colour and marker. Those without multiply-adds are hollow, at the left
    edge, as far below the memory's limit as their bytes per second are. How many parts have no label, and what they take
    together, is below the axis. Raises UsageError if no part has a speed.
    """
    shown = [part for part in parts if part.share >= NAMED / 10 and part.bytes_per_second > 0]
    intensities = [part.macs_per_second / part.bytes_per_second for part in shown if part.macs_per_second]
    ridge = macs_per_second / bytes_per_second
    left, right = min([*intensities, ridge]) / 4, 2 * max([*intensities, ridge])
    points = []
    for part in shown:
        group, label = _names(part.name)
        named = f"{label} {part.share:.0%}" if part.share >= NAMED else ""
        x = part.macs_per_second / part.bytes_per_second or left
        points.append(Point(named, x, x * part.bytes_per_second / 1e9, group, hollow=part.macs_per_second == 0))
    top = macs_per_second / 1e9
    roof = [
        Ceiling(f"memory, {bytes_per_second / 1e9:.3g} GB/s", [(left, left * bytes_per_second / 1e9), (ridge, top)]),
        Ceiling(f"products, {top:.3g} GMAC/s", [(ridge, top), (right, top)]),
    ]
    small = [part.share for part in parts if part.share < NAMED]
    each = f"\nwithout a name: {plural(len(small), 'part')} below {NAMED:.0%} of the time, {sum(small):.1%} together"
    panel = ScatterPanel(points, f"multiply-adds per byte{each if small else ''}", "GMAC/s", roof, logarithmic=True)
    return draw_scatters(path, [panel], title=title, hollow="no multiply-adds")


def _names(name: str) -> tuple[str, str]:
    """The group of a part and its name in it: up to its first number, and after it.

    >>> _names("backbone.stages.0.blocks.0-2.attn"), _names("head.narrow.3"), _names("neck")
    (('backbone.stages.0', 'attn'), ('head.narrow', 'narrow.3'), ('neck', 'neck'))
    """
    words = name.split(".")
    number = next((at for at, word in enumerate(words) if word[0].isdigit()), None)
    if number is None:
        return words[0], words[-1]
    if number == len(words) - 1:
        return ".".join(words[:number]), ".".join(words[-2:])
    return ".".join(words[: number + 1]), words[-1]
