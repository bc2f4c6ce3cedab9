"""Messages to the user."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pvtctl.io.names import shown

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn


def say(text: str) -> None:
    """Print a line to stderr, hidden characters of names in it as escapes; stdout is reserved for results."""
    print(shown(text, most=None, keep="\n"), file=sys.stderr, flush=True)


def progress_bars(*columns: ProgressColumn) -> Progress:
    """Progress bars on stderr if it is a terminal, removed at the end: title, bar, `columns`, time left.

    Titles can be names: markup in them has no effect, hidden characters are escapes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Title(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(shown(task.description))

    console = Console(stderr=True)
    title = Title("{task.description}")
    return Progress(
        title, BarColumn(), *columns, TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
