"""Output shared by the commands: results to stdout, messages to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.io.console import progress_bars
from pvtctl.io.files import without_nan
from pvtctl.io.names import shown


def print_json(value: Any) -> None:
    """Print the JSON document of a command called with `--json`. NaN and infinity become null."""
    print(json.dumps(without_nan(value), indent=2, allow_nan=False))


def print_text(text: object, *, end: str = "\n") -> None:
    """Print a result, hidden characters of names in it as escapes."""
    print(shown(text, most=None, keep="\n\t"), end=end)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str | None = None) -> None:
    """Print a table to stdout; numeric columns are right-aligned, hidden characters of names are escapes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    grid = Table()
    for at, column in enumerate(columns):
        numeric = all(isinstance(row[at], int | float) or _is_number(str(row[at])) for row in rows)
        grid.add_column(Text(shown(column)), justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(shown(cell, most=None, keep="\n")) for cell in row))
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no terminal width to wrap at
        console = Console(width=max(console.width, 200))
    # title and caption as separate lines: inside the grid they would wrap at its width
    for part in (title, grid, caption):
        if part:
            line = shown(part, most=None, keep="\n") if isinstance(part, str) else part
            console.print(line, markup=False, highlight=False)


def _is_number(text: str) -> bool:
    try:
        float(text.split()[0].rstrip("%x") if text.strip() else "x")
    except ValueError:
        return text in ("-", "")
    return True


def parse_size(text: str, *, least: int = 32) -> tuple[int, int]:
    """`800` -> (800, 800), `800x1280` -> (800, 1280): height x width in pixels.

    Raises UsageError for anything else, and for sides outside `least`..8192.
    """
    parts = text.lower().strip().split("x")
    if len(parts) not in (1, 2) or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"size {text!r} is not a size", "write 224, or HEIGHTxWIDTH as in 800x1280")
    sides = [int(part) for part in parts]
    height, width = sides[0], sides[-1]
    if not (least <= height <= 8192 and least <= width <= 8192):
        raise UsageError(f"size {text!r} is out of range", f"both sides must be between {least} and 8192 pixels")
    return height, width


def parse_step(text: str) -> tuple[int, int]:
    """The step of a sliding window: as `parse_size`, from 1 pixel."""
    return parse_size(text, least=1)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """`224,512,800x1280` -> three sizes; see `parse_size`."""
    return [parse_size(part) for part in text.split(",")]


def parse_ratios(text: str) -> tuple[float, ...]:
    """Parse `0.5,1,1.5`, factors on a test size. Raises UsageError."""
    ratios = _numbers(text, "ratios", "0.5,1,1.5")
    if not all(0.1 <= ratio <= 8 for ratio in ratios):
        raise UsageError(f"--ratios {text!r} are out of range", "factors between 0.1 and 8, as 0.5,1,1.5")
    return ratios


def parse_scale_shift(text: str) -> tuple[float, float]:
    """Parse `3.05e-4,0.1378`, the conversion of inverse depth to metres. Raises UsageError."""
    values = _numbers(text, "scale-shift", "3.05e-4,0.1378")
    if len(values) != 2 or values[0] <= 0:
        raise UsageError(f"--scale-shift {text!r} is not a scale above 0 and a shift", "write it as 3.05e-4,0.1378")
    return values[0], values[1]


def _numbers(text: str, option: str, example: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"--{option} {text!r} are not numbers", f"write them as {example}")
    return values


def with_progress(work: Callable[[Callable[[str, int, int], None]], Any]) -> Any:
    """Run `work(on_progress)` with a progress bar per split on stderr."""
    from rich.progress import MofNCompleteColumn

    with progress_bars(MofNCompleteColumn()) as progress:
        bars: dict[str, Any] = {}

        def on_progress(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(shown(split), total=total)
            progress.update(bars[split], completed=done)

        return work(on_progress)
