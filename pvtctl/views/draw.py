"""Draws the pictures of a report, where one that fails costs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pvtctl.io.console import say


def draw_each(pictures: Mapping[str, Callable[[], Path | None]]) -> dict[str, Path]:
    """Call each to draw it; title -> file. A picture that cannot be drawn is a warning: the numbers are there without it.

    None stands for a picture that there is no reason to draw.
    """
    drawn = {}
    for title, draw in pictures.items():
        try:
            path = draw()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
            say(f"warning: the picture `{title}` could not be drawn: {reason[:300]}")
        else:
            if path is not None:
                drawn[title] = path
    return drawn
