"""Messages to the user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from pvtctl.io.names import shown

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def say(text: str) -> None:
    """Print a line to stderr, hidden characters of names in it as escapes; stdout is reserved for results."""
    print(shown(text, most=None, keep="\n"), file=sys.stderr, flush=True)


@cache
def say_once(text: str) -> None:
    """`say` a line that several steps of a command would repeat."""
    say(text)


def progress_bars(*columns: ProgressColumn) -> Progress:
    """Progress bars on stderr if it is a terminal, removed at the end. Markup in their titles has no effect."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    every = (TextColumn("{task.description}", markup=False), BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*every, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def byte_progress() -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
    """Progress bars in bytes on stderr; yields a function that starts a named bar."""
    from rich.progress import DownloadColumn

    with progress_bars(DownloadColumn()) as bars:

        def start(name: str) -> Callable[[int, int | None], None]:
            task = bars.add_task(shown(name), total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield start
