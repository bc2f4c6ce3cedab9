"""Stopping by signals and time limits, so that a run can be resumed. Does not import torch."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from pvtctl.errors import ExitCode, PvtctlError

_NAMES = {
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGHUP: "SIGHUP (its terminal was closed)",
    signal.SIGINT: "Ctrl-C",
}
TIME_LIMIT = 100
LAUNCHER = "PVTCTL_LAUNCHER"
"""Environment variable with the process id of `launch`; when that process ends, its children end too."""
_AT_ONCE = 5.0
"""Seconds in which a second signal belongs to the first: a session's end sends SIGTERM and SIGHUP to all its processes."""
_heeded = -math.inf
"""When a stop began to end this process."""


class Stopped(PvtctlError):
    """The run was saved and stopped before its end."""

    exit_code = ExitCode.RESUMABLE


class StopNow(BaseException):
    """A signal that arrived where nothing waits for it; like KeyboardInterrupt no `except Exception` may hold it up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {_NAMES[signal.Signals(number)]}")
        self.number = number


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a run to stop; SIGHUP only if it is not ignored, as `nohup` lets it be."""
    return [each for each in _NAMES if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def handling(handler: Callable[[int, Any], None], numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Call `handler` on these signals; outside the main thread, where Python forbids handlers, nothing changes."""
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers} if mine else {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def stops_raise(*, last: bool = False) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGHUP raise StopNow in the block, wherever it is; Ctrl-C raises as ever.

    `last`: the process ends after the block with the exit code that it has then: later signals are ignored.
    """
    owner = os.getpid()

    def raise_stop(number: int, frame: FrameType | None) -> None:
        global _heeded
        if os.getpid() != owner or time.monotonic() - _heeded < _AT_ONCE:
            return  # a loader worker inherits the handler
        _heeded = time.monotonic()
        raise StopNow(number)

    numbers = [each for each in stop_signals() if each != signal.SIGINT]
    try:
        with handling(raise_stop, numbers):
            yield
    finally:
        if last and threading.current_thread() is threading.main_thread():
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)


class StopRequests:
    """Turns the signals into a request that the training loop checks between steps; a second Ctrl-C exits at once.

    One that comes after the last check acts when the block ends, as it would outside of it.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.number = 0
        self._deadline = time.monotonic() + max_minutes * 60 if max_minutes else None
        self._owner = os.getpid()
        self._interrupted = False
        self._handling = handling(self._request, stop_signals())

    def __enter__(self) -> Self:
        self._handling.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._handling.__exit__(None, None, None)
        if self._interrupted and isinstance(error, RuntimeError):
            raise KeyboardInterrupt from error  # raised inside a function that torch had called, which hid it
        if error is None and self.number not in (0, TIME_LIMIT):
            signal.raise_signal(self.number)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return  # a loader worker inherits the handler; the loop will end it
        if number == signal.SIGINT and self.number == signal.SIGINT:
            self._interrupted = True
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
    launcher = os.environ.get(LAUNCHER, "")
    return launcher.isdecimal() and os.getppid() != int(launcher)


def stopped_by(code: int, where: str) -> Stopped:
    """The error for a run that was saved and stopped; `where` is its progress."""
    global _heeded
    _heeded = time.monotonic()
    cause = "its time limit" if code == TIME_LIMIT else _NAMES[signal.Signals(code)]
    exit_code = ExitCode.INTERRUPTED if code == signal.SIGINT else ExitCode.RESUMABLE
    return Stopped(
        f"stopped by {cause} at {where}; everything is saved",
        "add --resume to the same command to continue",
        exit_code=exit_code,
    )
