"""Log lines and progress bars on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from pvtctl.io.console import progress_bars, say
from pvtctl.io.names import shown

Say = Callable[[str], None]


def silent(text: str) -> None:
    """Replaces `say` where nothing is logged, as on all ranks but the first."""


def clock(seconds: float) -> str:
    """`75` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, secs = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


class Progress:
    """A progress bar with rate and time left on a terminal, else a line every `every` seconds; none if not `shown`."""

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        start: int = 0,
        unit: str = "it",
        shown: bool = True,
        every: float = 30.0,
    ) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.start = self.done = start
        self.shown = shown
        self.every = every
        self._began = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self.shown and sys.stderr.isatty():
            from rich.progress import MofNCompleteColumn, TextColumn

            self._bar = progress_bars(MofNCompleteColumn(), TextColumn("{task.fields[note]}", markup=False))
            self._bar.start()
            self._task = self._bar.add_task(shown(self.title), total=self.total, completed=self.start, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str = "", by: int = 1) -> None:
        """Advance by `by`; `note` is shown next to the rate."""
        self.done += by
        if not self.shown:
            return
        rate = (self.done - self.start) / max(time.monotonic() - self._began, 1e-9)
        note = f"{rate:.2f} {self.unit}/s {note}".rstrip()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            left = f", {clock((self.total - self.done) / rate)} left" if self.total and rate else ""
            say(f"{self.title}: {self.done}/{self.total or '?'}, {note.rstrip()}{left}")
