"""Processes of the toy task without their seconds of imports: forked from one that has imported torch, and from each other.

What a test sees is what it sees of started ones: their own sessions, parents, environments, signals and exit codes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import SimpleNamespace
from typing import Any

from pvtctl.engine import distributed, launch

Command = tuple[Any, ...]
"""A function and its arguments, in the place of a command line."""


def server() -> ForkServerContext:
    """Starts the process that all others are forked from, once."""
    context = multiprocessing.get_context("forkserver")
    # optimisers import torch._dynamo
    context.set_forkserver_preload(["pvtctl.engine", "pvtctl.recipe.schema", "torch._dynamo"])
    return context


def start(target: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """`sys.exit(target(*arguments))` in a process of its own, where `launch` forks too."""
    process = server().Process(target=_become, args=((target, *arguments), dict(os.environ)))
    process.start()
    return process


def run(target: Callable[..., Any], *arguments: Any) -> int:
    """The exit code of `start(target, *arguments)`."""
    process = start(target, *arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def launched(command: Command, processes: int) -> int:
    """`launch`, as a target."""
    return launch(command, processes)


def _become(command: Command, environment: Mapping[str, str], new_session: bool = False) -> None:
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    distributed.subprocess = SimpleNamespace(Popen=_Forked)  # type: ignore[assignment]
    target, *arguments = command
    sys.exit(target(*arguments))


class _Forked:
    """What `launch` needs of `subprocess.Popen`."""

    def __init__(self, command: Sequence[Any], *, env: Mapping[str, str], start_new_session: bool) -> None:
        self._process = multiprocessing.get_context("fork").Process(
            target=_become, args=(tuple(command), env, start_new_session)
        )
        self._process.start()
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> None:
        self._process.join()
