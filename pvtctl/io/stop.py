"""Stopping a run so that it can be resumed: signals, a time limit, and the error raised."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Self

from pvtctl.errors import ExitCode, PvtctlError

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1", signal.SIGINT: "Ctrl-C"}
TIME_LIMIT = 100
LAUNCHER = "PVTCTL_LAUNCHER"
"""Environment variable with the process id of `launch`; when that process ends, its children end too."""


class Stopped(PvtctlError):
    """The run was saved and stopped before its end."""

    exit_code = ExitCode.RESUMABLE


class StopRequests:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a request that the training loop checks between steps.

    A second Ctrl-C exits at once. Outside the main thread, where Python forbids handlers, only the time limit works.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.number = 0
        self._deadline = time.monotonic() + max_minutes * 60 if max_minutes else None
        self._owner = os.getpid()
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _NAMES:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _request(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a loader worker inherits the handler; the loop will end it
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    @property
    def code(self) -> int:
        """0, the signal's number, or TIME_LIMIT."""
        if not self.number and self._deadline is not None and time.monotonic() >= self._deadline:
            self.number = TIME_LIMIT
        if not self.number and orphaned():
            self.number = signal.SIGTERM
        return self.number


def orphaned() -> bool:
    """Whether the launcher of this process was killed, so that no signals will be forwarded."""
    launcher = os.environ.get(LAUNCHER)
    return launcher is not None and os.getppid() != int(launcher)


def stopped_by(code: int, where: str) -> Stopped:
    """The error for a run that was saved and stopped; `where` is its progress."""
    cause = "its time limit" if code == TIME_LIMIT else _NAMES[signal.Signals(code)]
    exit_code = ExitCode.INTERRUPTED if code == signal.SIGINT else ExitCode.RESUMABLE
    return Stopped(
        f"stopped by {cause} at {where}; everything is saved",
        "add --resume to the same command to continue",
        exit_code=exit_code,
    )
