"""Run a study: runs in separate, parallel processes, each after the one that it needs, resumed if interrupted.

Failures are recorded and marked in the table; the other runs continue.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from pvtctl.engine.log import Progress, clock
from pvtctl.engine.run import FREE_KEYS, check_recipe, in_use
from pvtctl.engine.run_files import read_info, read_run_recipe, read_starts
from pvtctl.errors import ExitCode, UsageError
from pvtctl.io.files import write_text
from pvtctl.io.foreign import BadFile, parse_json, read_facts
from pvtctl.io.names import plural
from pvtctl.io.stop import LAUNCHER, StopRequests, stopped_by
from pvtctl.recipe.load import keys_of_other_heads
from pvtctl.runs.read_run import images_a_step
from pvtctl.studies.plan import Run, StudyPlan
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.resolve import find_weights_file

Status = Literal["finished", "running", "stopped", "failed", "missing"]
_POLL_SECONDS = 0.2
_LOOK_SECONDS = 2.0
_LAST_WORDS = 20
"""Lines at the end of a log that are searched for the error."""


@dataclass(frozen=True)
class RunState:
    """State of a run."""

    status: Status
    reason: str | None = None
    """Reason of a failure."""


def state_of(run: Run) -> RunState:
    """State of a run, from its directory; an unreadable one counts as failed.

    Raises UsageError when the directory contains a run of other settings.
    """
    try:
        info = _info(run)
        began = read_run_recipe(run.out) if info else {}
    except UsageError as error:
        return RunState("failed", f"{error.message}: remove {run.out} to run it again")
    if info:
        _check_settings(run, began)
    if info.get("status") == "finished":
        return RunState("finished")
    if run.out.is_dir() and in_use(run.out):
        return RunState("running")
    failure = failure_file(run)
    if failure.is_file():
        return RunState("failed", str(read_facts(failure).get("reason", "unknown")))
    return RunState("stopped" if info else "missing")


def failure_file(run: Run) -> Path:
    """The file that records a failure: next to the run directory, which may not exist."""
    return run.out.parent / f"{run.out.name}.failure.json"


def log_file(run: Run) -> Path:
    """The log of a run's process."""
    return run.out.parent / f"{run.out.name}.log"


def _info(run: Run) -> dict[str, Any]:
    try:
        return read_info(run.out)
    except UsageError as error:
        raise UsageError(error.message, f"remove {run.out} and run the study again") from error


def _check_settings(run: Run, began: dict[str, Any]) -> None:
    """Raise UsageError when the run directory has another recipe; initial weights are not compared."""
    wanted = run.recipe.plain_values()
    if run.recipe.model.weights is None:
        wanted["model"]["weights"] = began.get("model", {}).get("weights")
    try:
        free = [*FREE_KEYS, *keys_of_other_heads(run.recipe)]
        check_recipe(began, json.loads(json.dumps(wanted)), run.out, free)
    except UsageError as error:
        hint = "choose another --out, or remove that directory to run it again"
        raise UsageError(error.message, hint) from error


def recipe_to_run(plan: StudyPlan, run: Run) -> tuple[Any, bool]:
    """The recipe of a run with its initial weights, and whether there is a run to resume.

    Raises UsageError when the pretraining that it needs is not finished.
    """
    resume = bool(_info(run))
    recipe = run.recipe
    weights = recipe.model.weights
    pretraining = plan.pretraining_of(run)
    if resume:
        began = read_run_recipe(run.out)
        weights = began.get("model", {}).get("weights")
        before = Path(weights or "")
        if weights and pretraining is not None and not before.exists() and before.name == pretraining.out.name:
            # the directory of studies was moved
            weights = began["model"]["weights"] = str(pretraining.out.absolute())
            write_text(run.out / "recipe.yaml", yaml.safe_dump(began, sort_keys=False))
    elif pretraining is not None:
        if state_of(pretraining).status != "finished":
            raise UsageError(f"{run.name} starts from {pretraining.name}, which is not finished")
        weights = str(pretraining.out.absolute())
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": weights})}), resume


@dataclass
class _Child:
    run: Run
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    log_begin: int
    """Offset in the log of this process's output."""
    began: float = field(default_factory=time.monotonic)


def run_plan(
    plan: StudyPlan,
    command: Callable[[Run], Sequence[str]],
    *,
    jobs: int = 1,
    threads: int | None = None,
    say: Callable[[str], None],
) -> dict[str, RunState]:
    """Run what is not finished, `jobs` at a time; returns the state of every run by name.

    `command(run)` is the command that trains one run and exits with the codes of `pvtctl`; `threads` is the number of
    CPU threads of each. Failures are kept in `failure_file`. Raises Stopped on Ctrl-C, SIGTERM and SIGUSR1, after all
    processes have saved, and UsageError, before anything runs, when a run directory contains a run of other settings or
    the weights given for a row are missing.
    """
    states = {run.name: state_of(run) for run in plan.runs}
    for row in plan.request.row_weights:
        for one in plan.row_runs(row):
            if states[one.name].status == "missing":
                find_weights_file(str(one.recipe.model.start))
    waiting = [run for run in plan.runs if states[run.name].status not in ("finished", "running")]
    done = len(plan.runs) - len(waiting)
    say(f"{plan.study}: {plural(len(plan.runs), 'run')}, {done} of them done or at work elsewhere; {jobs} at a time")
    children: list[_Child] = []
    meter = _Meter(plan, waiting)
    with StopRequests() as stop, meter.progress:
        while waiting or children:
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                states[child.run.name] = _ended(child, say)
                meter.full(child.run)
            while len(children) < jobs and (run := _next(waiting, states)) is not None:
                waiting.remove(run)
                if run.needs and states[run.needs].status == "failed":
                    states[run.name] = record_failure(run, f"{run.needs} failed", ExitCode.FAILED)
                    meter.full(run)
                else:
                    states[run.name] = RunState("running")  # regardless of its state before
                    children.append(_start(run, command(run), threads, say))
            if stop.code:
                _stop(children, stop.code)
                finished = sum(state.status == "finished" for state in states.values())
                stopped = stopped_by(stop.code, f"{finished} of {len(plan.runs)} finished runs")
                stopped.hint = "run the same command to continue"
                raise stopped
            if waiting and not children and _next(waiting, states) is None:
                for run in waiting:
                    say(f"{run.name}: waits for {run.needs}, which is {states[run.needs or ''].status}")
                break  # the same command runs them, once that has ended
            meter.look(children)
            time.sleep(_POLL_SECONDS)
    return states


class _Meter:
    """Progress of a study from the logs of its runs, in megapixels seen: time is proportional to pixels rather than to
    images, which are small in pretraining."""

    def __init__(self, plan: StudyPlan, waiting: Sequence[Run]) -> None:
        self.seen = {run.name: 0 if run in waiting else _megapixels(run, _images(run)) for run in plan.runs}
        total = sum(_megapixels(run, _images(run)) for run in plan.runs)
        done = sum(self.seen.values())
        self.progress = Progress(plan.study, total, start=done, unit="megapixels")
        self._looked = 0.0

    def full(self, run: Run) -> None:
        self._set(run, _images(run), "")

    def look(self, children: Sequence[_Child]) -> None:
        """Update from the logs, only every few seconds as they are read completely."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for child in children:
            last = _last_metrics(child.run.out / "metrics.jsonl")
            starts = read_starts(child.run.out)
            images = min(int(last.get("step", 0)) * images_a_step(child.run.recipe, starts), _images(child.run))
            self._set(child.run, images, ", ".join(one.run.name for one in children))

    def _set(self, run: Run, images: int, note: str) -> None:
        if (more := _megapixels(run, images) - self.seen[run.name]) > 0:
            self.seen[run.name] += more
            self.progress.advance(note, by=more)


def _megapixels(run: Run, images: int) -> int:
    height, width = spec_of(run.recipe).sizes(run.recipe).testing
    return -(-images * height * width // 1_000_000)


def _images(run: Run) -> int:
    """Approximate number of training images of a whole run: unknown data sizes count as the default one of scenes."""
    train = run.recipe.train
    if train.iterations is not None:
        return train.iterations * train.total_batch
    images = train.epochs * (run.recipe.data.train_samples or 6000)
    return min(images, train.max_steps * train.total_batch) if train.max_steps else images


def _next(waiting: Sequence[Run], states: Mapping[str, RunState]) -> Run | None:
    """The first run whose pretraining has finished or failed."""
    pending = {run.name for run in waiting}
    for run in waiting:
        if run.needs is None or (run.needs not in pending and states[run.needs].status in ("finished", "failed")):
            return run
    return None


def _start(run: Run, command: Sequence[str], threads: int | None, say: Callable[[str], None]) -> _Child:
    """Start one process in a separate session: Ctrl-C reaches only this process, which forwards it."""
    failure_file(run).unlink(missing_ok=True)
    log_file(run).parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {LAUNCHER: str(os.getpid())}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads)}
    log = log_file(run).open("ab")
    log_begin = log.seek(0, os.SEEK_END)
    say(f"{run.name}: started (log: {log_file(run)})")
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    return _Child(run, process, log, log_begin)


def _ended(child: _Child, say: Callable[[str], None]) -> RunState:
    child.log.close()
    run, code = child.run, child.process.returncode
    took = clock(time.monotonic() - child.began)
    if code == 0:
        score = read_info(run.out).get("score") or {}
        shown = ("top1", "box_ap", "box_ap50", "mask_ap", "miou", "delta1", "abs_rel")
        figures = ", ".join(f"{name} {score[name]:.3f}" for name in shown if name in score)
        say(f"{run.name}: finished in {took}; {figures}")
        return RunState("finished")
    if code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED):
        say(f"{run.name}: stopped after {took}, to be resumed")
        return RunState("stopped")
    reason = _last_error(log_file(run), child.log_begin)
    reason = reason or (f"ended by signal {-code}" if code < 0 else f"exit code {code}")
    state = record_failure(run, reason, code)
    if state.status == "running":
        say(f"{run.name}: at work elsewhere")
    else:
        say(f"{run.name}: failed after {took}: {reason} (log: {log_file(run)})")
    return state


def record_failure(run: Run, reason: str, code: int) -> RunState:
    """Record why a run failed; its next start removes the record.

    A run that another `pvtctl ablate` is training has not failed: nothing is written.
    """
    if run.out.is_dir() and in_use(run.out):
        return RunState("running")
    record = {"reason": reason, "exit_code": code, "log": str(log_file(run)) if log_file(run).is_file() else None}
    write_text(failure_file(run), json.dumps(record, indent=2) + "\n")
    return RunState("failed", reason)


def _last_error(log: Path, begin: int) -> str | None:
    """The last error in the log after offset `begin`, where this start's output begins."""
    lines = log.read_bytes()[begin:].decode("utf-8", errors="replace").splitlines()[-_LAST_WORDS:]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return told[-1] if told else None


def _last_metrics(file: Path) -> dict[str, Any]:
    lines = file.read_text("utf-8", errors="replace").splitlines()[-3:] if file.is_file() else []
    for line in reversed(lines):
        with suppress(BadFile):  # being written
            return dict(parse_json(line, file, dict))
    return {}


def _stop(children: list[_Child], code: int) -> None:
    """Signal every process to save and stop, and wait; a second Ctrl-C ends them at once."""
    asked = signal.SIGINT if code == signal.SIGINT else signal.SIGTERM
    for child in children:
        child.process.send_signal(asked)
    try:
        for child in children:
            child.process.wait()
            child.log.close()
    except KeyboardInterrupt:
        for child in children:
            child.process.kill()
        raise
