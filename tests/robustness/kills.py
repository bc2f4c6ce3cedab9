"""Runs that are killed, stopped, or out of disk at seeded moments, resumed, and compared with one that nobody touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from child import Ended, fault_of, run_forked
from safetensors.torch import load_file
from valid import plain_figures, train

_TIMINGS = ("seconds", "images_per_s")
_RESUMABLE = {
    signal.SIGTERM: 75,
    signal.SIGUSR1: 75,
    signal.SIGHUP: 75,
    signal.SIGINT: 130,
    signal.SIGKILL: -signal.SIGKILL,
}
MOMENTS = {
    # name: (module, attribute, calls of it in a run, where the moment is)
    "at start-up": ("pvtctl.runs.train", "build_task", 1, "before"),
    "when the run's folder is made": ("pvtctl.engine.run", "describe_environment", 1, "before"),
    "before the loop": ("pvtctl.runs.train", "fit", 1, "before"),
    "in a step": ("pvtctl.engine.step.Stepper", "_passes", 4, "after"),
    "in a checkpoint": ("pvtctl.engine.checkpoint._Watched", "write", 400, "before"),
    "before a rename": ("pathlib.Path", "replace", 20, "before"),
    "after a rename": ("pathlib.Path", "replace", 20, "after"),
    "while a log is written": ("pvtctl.engine.run.RunFolder", "log", 4, "after"),
    "in an evaluation": ("pvtctl.tasks.classification.task.ClassificationTask", "predict", 4, "after"),
    "while the best weights are scored": ("pvtctl.runs.train", "_score_best", 1, "before"),
    "while it draws": ("matplotlib.figure.Figure", "savefig", 4, "before"),
    "while the report is written": ("pvtctl.runs.report", "write_report", 1, "before"),
}


@dataclass(frozen=True)
class Kill:
    """A signal at a moment: a place in the code, or a time."""

    number: signal.Signals
    moment: str
    """A name of MOMENTS, or `after SECONDS s`."""
    call: int = 1
    twice: bool = False
    """Ctrl-C is sent a second time, at the next of these calls."""

    def __str__(self) -> str:
        name = f"{self.number.name}{' twice' if self.twice else ''}"
        return f"{name} {self.moment}{f' {self.call}' if self.call > 1 else ''}"


@dataclass
class Killed:
    """Of a number of chains: a run that is killed a few times, and resumed to its end."""

    kills: Counter[str] = field(default_factory=Counter)
    chains: int = 0
    cpu: float = 0.0
    """Seconds."""
    failures: list[str] = field(default_factory=list)


def random_kill(rng: random.Random, seconds: float, numbers: Sequence[signal.Signals] = tuple(_RESUMABLE)) -> Kill:
    """Half of them SIGKILL, a third by time."""
    number = signal.SIGKILL if rng.random() < 0.5 else rng.choice(list(numbers))
    if rng.random() < 0.3:
        return Kill(number, f"after {rng.uniform(0, seconds):.2f} s")
    moment = rng.choice(list(MOMENTS))
    twice = number == signal.SIGINT and moment in ("in a step", "in a checkpoint") and rng.random() < 0.5
    return Kill(number, moment, rng.randint(1, MOMENTS[moment][2]), twice)


def run_killed(work: Path, kill: Kill | None, *, file_bytes: int | None = None) -> Ended:
    """Train in `work`/run, resuming what is there; `kill` it, or let it end."""
    resume = (work / "run" / "run.json").is_file()

    def act() -> int:
        plain_figures()
        if kill is not None and kill.moment in MOMENTS:
            _arm(kill)
        return train(*(["--resume"] if resume else []))

    def by_time(pid: int) -> None:
        if kill is not None and kill.moment not in MOMENTS:
            timer = threading.Timer(float(kill.moment.split()[1]), _send, (pid, kill.number))
            timer.daemon = True
            timer.start()

    return run_forked(act, work, file_bytes=file_bytes, meanwhile=by_time)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _arm(kill: Kill) -> None:
    """Let this process send itself the signal at the kill's moment."""
    place, name, _, where = MOMENTS[kill.moment]
    holder = _found(place)
    inner = getattr(holder, name)
    calls = 0
    due = [kill.call, kill.call + 1] if kill.twice else [kill.call]
    mine = os.getpid()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += os.getpid() == mine
        now = calls in due and os.getpid() == mine
        if now and where == "before":
            os.kill(mine, kill.number)
        result = inner(*arguments, **options)
        if now and where == "after":
            os.kill(mine, kill.number)
        return result

    setattr(holder, name, wrapped)


def _found(place: str) -> Any:
    """The module, or the class in one."""
    import importlib

    module, _, name = place.rpartition(".")
    return (
        getattr(importlib.import_module(module), name)
        if name[0].isupper() or name[0] == "_"
        else importlib.import_module(place)
    )


def check_killed(kill: Kill, ended: Ended, folder: Path, starts: int) -> str | None:
    """What is wrong with how a killed run ended; it may have ended before, or stopped before it opened its folder, in
    which then no more than `starts` are recorded.
    """
    fault = fault_of(ended, (0, _RESUMABLE[kill.number])) if ended.code != -signal.SIGKILL else None
    if ended.code == -signal.SIGKILL and kill.number != signal.SIGKILL:
        fault = "hangs"
    if fault is None and ended.code in (75, 130) and count_starts(folder) > starts:
        status = json.loads((folder / "run.json").read_text())["status"]
        if status not in ("stopped", "finished"):
            fault = f"exit code {ended.code}, and run.json says {status}"
    return fault


def count_starts(folder: Path) -> int:
    """How often the run in `folder` was started."""
    file = folder / "environment.json"
    return len(json.loads(file.read_text())) if (folder / "run.json").is_file() else 0


def difference(run: Path, unbroken: Path) -> str | None:
    """What differs between two finished runs of the same recipe, apart from times; None if nothing, to the bit."""
    if (left := [str(file.relative_to(run)) for file in run.rglob(".*.tmp")]) != []:
        return f"left behind: {left}"
    lines = [
        [{key: value for key, value in json.loads(line).items() if key not in _TIMINGS} for line in text.splitlines()]
        for text in ((folder / "metrics.jsonl").read_text() for folder in (run, unbroken))
    ]
    if lines[0] != lines[1]:
        return "metrics.jsonl"
    infos = [json.loads((folder / "run.json").read_text()) for folder in (run, unbroken)]
    for key in ("status", "score", "result"):
        values = [info[key] if key != "result" else info[key] | {"seconds": 0} for info in infos]
        if values[0] != values[1]:
            return f"{key} of run.json: {values[0]} and {values[1]}"
    if not _same(*(load_file(folder / "best.safetensors") for folder in (run, unbroken))):
        return "best.safetensors"
    states = []
    for folder in (run, unbroken):
        state = torch.load(max((folder / "checkpoints").glob("step-*.pt")), weights_only=True)
        state["progressed"] |= {"seconds": 0, "lengths": 0}
        states.append(state)
    return None if _same(*states) else "the last checkpoint"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def try_chain(seed: int, kills: Sequence[Kill], unbroken: Path, work: Path, found: Killed) -> None:
    """Kill a run so often, resume it to its end, and add to `found` what is wrong."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    found.chains += 1
    told = f"chain {seed} ({', '.join(map(str, kills))})"
    for kill in kills:
        starts = count_starts(work / "run")
        ended = run_killed(work, kill)
        found.cpu += ended.cpu
        found.kills[kill.number.name + (" twice" if kill.twice else "")] += ended.code != 0
        if (fault := check_killed(kill, ended, work / "run", starts)) is not None:
            found.failures.append(f"{told}: {kill}: {fault}")
            return
    ended = run_killed(work, None)
    found.cpu += ended.cpu
    fault = fault_of(ended, (0,)) or difference(work / "run", unbroken)
    if fault is not None:
        found.failures.append(f"{told}: resumed: {fault}")


def try_kills(number: int, seed: int, unbroken: Path, work: Path, end: float, say: Callable[[str], None]) -> Killed:
    """Chains with `number` kills in all, none begun after `end`, of runs as long as `unbroken`'s."""
    found = Killed()
    seconds = _seconds(work) if number else 0.0
    while (left := number - found.kills.total()) > 0 and found.chains < number and time.monotonic() < end:
        rng = random.Random(seed + found.chains)
        kills = [random_kill(rng, seconds) for _ in range(min(left, rng.choice([1, 2, 3])))]
        before = len(found.failures)
        try_chain(seed + found.chains, kills, unbroken, work, found)
        for failure in found.failures[before:]:
            say(failure)
    return found


def _seconds(work: Path) -> float:
    """How long a run takes here."""
    began = time.monotonic()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    run_killed(work, None)
    return time.monotonic() - began


def try_full_disks(
    number: int, seed: int, unbroken: Path, work: Path, end: float, say: Callable[[str], None]
) -> Killed:
    """As many full disks of seeded sizes."""
    found = Killed()
    largest = max(file.stat().st_size for file in unbroken.rglob("*") if file.is_file())
    while found.chains < number and time.monotonic() < end:
        file_bytes = round(largest ** random.Random(seed + found.chains).uniform(0.4, 0.999))
        try_full_disk(file_bytes, unbroken, work, found)
        for failure in found.failures[-1:]:
            say(failure)
    return found


def try_full_disk(file_bytes: int, unbroken: Path, work: Path, found: Killed) -> None:
    """Train where no file may be longer than `file_bytes`, then without that limit; add to `found` what is wrong."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    found.chains += 1
    told = f"no file over {file_bytes} bytes"
    ended = run_killed(work, None, file_bytes=file_bytes)
    fault = fault_of(ended, (1,))
    if fault is None and len(re.findall("^error: ", ended.err, re.MULTILINE)) != 1:
        fault = f"not one error: {ended.err[-500:]}"
    if fault is None and (left := list(work.rglob(".*.tmp"))):
        fault = f"left behind: {left}"
    if fault is None:
        again = run_killed(work, None)
        found.cpu += ended.cpu + again.cpu
        fault = fault_of(again, (0,)) or difference(work / "run", unbroken)
        told += ", then resumed" if fault else ""
    if fault is not None:
        found.failures.append(f"{told}: {fault}")
