"""A command in a forked child of this process, which has imported torch already, under limits; and the judgement of its end."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pvtctl.tasks.registry import TASK_SPECS

CPU_SECONDS = 30
WALL_SECONDS = 150.0
"""For what waits without using the processor; a loaded machine needs a multiple of the CPU seconds."""
MEMORY = 2 << 30
"""Bytes beyond those of this process."""
LONGEST_LINE = 2_000
LONGEST_OUTPUT = 200_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What can repaint a terminal or turn its text around. Tabs and line breaks are harmless."""
_LAST_WORDS = 70
"""Exit code of a child whose `act` raised: a traceback is in its output."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Exit code, or minus the signal's number."""
    out: str
    err: str
    cpu: float
    wall: float

    @property
    def last(self) -> str:
        """Its last error, or its last line."""
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return (errors or self.err.splitlines() or [""])[-1][:300]


def run_forked(
    act: Callable[[], int],
    folder: Path,
    *,
    file_bytes: int | None = None,
    meanwhile: Callable[[int], object] | None = None,
) -> Ended:
    """Run `act` in a child whose working directory and output files are in `folder`; its result is the exit code.

    `file_bytes` limits the size of any file that it writes, as a full disk does; `meanwhile(pid)` is called once it runs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads, of which none is ours
        child = os.fork()
    if child == 0:
        _be_child(act, folder, file_bytes)
    if meanwhile is not None:
        meanwhile(child)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    text = [(folder / name).read_bytes().decode("utf-8", "backslashreplace") for name in (".out", ".err")]
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, *text, usage.ru_utime + usage.ru_stime, time.monotonic() - began)


def _be_child(act: Callable[[], int], folder: Path, file_bytes: int | None) -> None:
    """Never returns."""
    code = _LAST_WORDS
    try:
        os.setpgid(0, 0)
        faulthandler.disable()
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)  # a copy has not the pool of threads, and would wait for it
        for number, name in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, encoding="utf-8", closefd=False) for n in (1, 2))
        os.chdir(folder)
        os.environ["PWD"] = str(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        spent = sum(os.times()[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + CPU_SECONDS, int(spent) + CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + MEMORY,) * 2)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        code = act()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmData:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]


def warm() -> None:
    """Import what the commands import: a child that has to do it again takes seconds for nothing."""
    from pvtctl.cli.main import COMMANDS, command_of

    for name in COMMANDS:
        command_of(name)
    parts = [f"pvtctl.tasks.{task}.{part}" for task in TASK_SPECS for part in ("build", "check", "predict", "report")]
    for module in (
        "pvtctl.runs.train",
        "pvtctl.views.curves",
        "pvtctl.views.sheet",
        "pvtctl.weights.inspect",
        "matplotlib.backends.backend_agg",
        "pycocotools.mask",
        "rich.progress",
        "rich.table",
        "scipy.ndimage",
        "torch.utils.tensorboard",
        "typer._click.decorators",
        *parts,
    ):
        importlib.import_module(module)
    Image.init()
    gc.freeze()  # a child's garbage collector would touch, and so copy, all of this


def command(words: Sequence[str]) -> Callable[[], int]:
    """`pvtctl WORDS`."""

    def act() -> int:
        from pvtctl.cli.main import main

        return main(list(words))

    return act


def fault_of(ended: Ended, allowed: Sequence[int], *, json_document: bool = False) -> str | None:
    """What is wrong with how a command ended, in one line; None if all is as promised."""
    if ended.code == -signal.SIGXCPU or ended.cpu > CPU_SECONDS:
        return f"over {CPU_SECONDS} CPU seconds"
    if ended.code == -signal.SIGKILL:
        return f"hangs: killed after {ended.wall:.0f} s, {ended.cpu:.1f} of them on the processor"
    if ended.code < 0:
        return f"died by {signal.Signals(-ended.code).name}"
    text = ended.out + ended.err
    if "Traceback (most recent call last)" in text:
        return f"a traceback: {ended.err.strip().splitlines()[-1][:200]}"
    if "bug in pvtctl" in text:
        return f"unforeseen: {ended.last}"
    if "error: out of memory" in text:
        return f"wants more than {MEMORY >> 30} GiB"
    if ended.code not in allowed:
        return f"exit code {ended.code}, allowed are {', '.join(map(str, allowed))}: {ended.last}"
    if found := _CONTROL.search(text):
        return f"prints {found.group()!a} as it is"
    if (length := max(map(len, ended.err.splitlines()), default=0)) > LONGEST_LINE:
        return f"a message of {length} characters"
    if len(text) > LONGEST_OUTPUT:
        return f"{len(text)} characters of output"
    if ended.code == 2 and not ended.out and not ended.err.startswith("error: ") and "\nerror: " not in ended.err:
        return "exit code 2 without a word"
    return _json_fault(ended) if json_document else None


def _json_fault(ended: Ended) -> str | None:
    if ended.code != 0 and not ended.out:
        return None
    try:
        json.loads(ended.out, parse_constant=lambda word: int(f"not JSON: {word}"))
    except ValueError as error:
        return f"--json printed no document: {error}"[:200]
    return None
