"""Damaged inputs, one after the other, each read by a command in a forked child."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from child import command, fault_of, run_forked, warm
from kinds import as_typed, attempt


@dataclass(frozen=True)
class Failure:
    """A damaged input that the program did not take as promised. Its seed makes it again."""

    seed: int
    kind: str
    command: str
    fault: str


@dataclass
class Found:
    """Of a number of attempts."""

    tried: Counter[str] = field(default_factory=Counter)
    cpu: Counter[str] = field(default_factory=Counter)
    """CPU seconds by kind."""
    failures: list[Failure] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    """CPU seconds, seed."""


def try_inputs(
    valid: Path,
    work: Path,
    seeds: Iterable[int],
    *,
    only: str | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Found:
    """Try each seed's input; a failure's folder is moved below `keep`."""
    warm()
    found = Found()
    for seed in seeds:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        kind, attempted = attempt(seed, valid, work, only)
        ended = run_forked(command(attempted.words), work)
        fault = fault_of(ended, attempted.allowed, json_document=attempted.json_document)
        if (work / "code_has_run").exists():
            fault = "code from the file has run"
        found.tried[only or kind] += 1
        found.cpu[only or kind] += ended.cpu
        found.slowest = max(found.slowest, (round(ended.cpu, 2), seed))
        if fault is not None:
            failure = Failure(seed, only or kind, as_typed(attempted), fault)
            found.failures.append(failure)
            say(f"seed {seed}, {failure.kind}: {failure.command}: {fault}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                work.rename(keep / str(seed))
    return found
