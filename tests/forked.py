"""Processes of some modules that begin as copies of this one: what they import is loaded already."""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.util
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

COPIED = ("pvtctl", "pvtctl.latency.worker", "torch.distributed.run", "toy_task", "doc_page")
"""Modules that a process with torch in it can run; another program has a right to a process without."""


class ForkedPopen(subprocess.Popen[Any]):
    """`subprocess.Popen`, but `[sys.executable, "-m", MODULE, ...]` with a module of COPIED is forked instead of started anew:
    importing torch takes longer than most commands. Pipes, sessions, signals and exit codes are as ever.
    """

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, *others: Any) -> None:
        words = [] if isinstance(args, str) else [str(word) for word in args]
        words[1:2] = [] if words[1:2] == ["-u"] else words[1:2]  # of torchrun
        if words[:2] != [sys.executable, "-m"] or words[2] not in COPIED or not _can_be_copied():
            super()._execute_child(args, executable, preexec_fn, close_fds, *others)  # type: ignore[misc]
            return
        _, cwd, env, _, _, _, *pipes = others[:12]
        new_session = others[-2]
        sys.stdout.flush()
        sys.stderr.flush()
        ready, open_in_child = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of xdist's thread, which the copy does not have
            self.pid = os.fork()
        if self.pid == 0:
            _run(words[2:], cwd, env, [pipes[0], pipes[3], pipes[5]], new_session)
        os.close(open_in_child)
        os.read(ready, 1)  # ends when the child has its session and closes what it inherited, as Popen waits for exec
        os.close(ready)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


@cache
def _can_be_copied() -> bool:
    """Load what commands need. Autograd does not work in copies of a process that has used it, if there is a GPU; nor do several
    threads of OpenMP, for which a copy waits for ever."""
    import torch
    import torch._dynamo  # by optimisers

    import pvtctl.runs.train
    import pvtctl.weights.load  # noqa: F401

    return sys.platform == "linux" and not torch.cuda.is_available() and torch.get_num_threads() == 1


def _restart_without_autograd(words: list[str]) -> None:
    """Begin anew as a process of its own where autograd does not work: in copies of a process that it has started threads in,
    as for a device besides the CPU."""
    import torch

    one = torch.ones(1, requires_grad=True)
    try:
        one.sum().backward()
    except RuntimeError:
        os.execv(sys.executable, [sys.executable, "-m", *words])


def _run(words: list[str], cwd: Any, env: Any, streams: list[int], new_session: bool) -> NoReturn:
    """In the child: everything that a new process does not have is dropped, then the module runs."""
    code: Any = 1
    try:
        if new_session:
            os.setsid()
        kept = [os.dup(given) if given != -1 else None for given in streams]
        for at, copy in enumerate(kept):
            if copy is not None:
                os.dup2(copy, at)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]
        multiprocessing.util._finalizer_registry.clear()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._fd = resource_tracker._resource_tracker._pid = None  # type: ignore[attr-defined]
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", ".*found in sys.modules")
        if cwd is not None:
            os.chdir(cwd)
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        _restart_without_autograd(words)
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            if isinstance(code, str):
                print(code, file=sys.stderr)
            multiprocessing.util._exit_function()  # type: ignore[attr-defined]
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code if isinstance(code, int) else int(code is not None))
