"""Run a study: shared by `pvtctl ablate` and `pvtctl.run_study`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pvtctl.io.machine import cpus_usable
from pvtctl.recipe.scale import changes_line
from pvtctl.runs.paths import runs_root
from pvtctl.studies.plan import Run, StudyPlan, StudyRequest

if TYPE_CHECKING:
    from pvtctl.studies.report import StudyReport
    from pvtctl.studies.run import RunState

_MOST_JOBS = 4


def run_rows(
    request: StudyRequest,
    plan: StudyPlan,
    *,
    jobs: int | None = None,
    gpus: int | None = None,
    device: str | None = None,
    say: Callable[[str], None],
) -> dict[str, RunState]:
    """Run what is not finished; the state of every run by name. Each run is a separate process, `jobs` at a time.

    `jobs` defaults to 1; on a CPU at profile mini to one per core, at most 4. Raises Stopped on Ctrl-C, SIGTERM and
    SIGUSR1, and UsageError if a run directory contains a run of other settings.
    """
    from pvtctl.io.files import require_place
    from pvtctl.studies.run import run_plan

    require_place(plan.out)
    jobs, threads = _share(plan, jobs, gpus, device)
    words = [sys.executable, "-m", "pvtctl", "ablate", *request.words(), *process_words(gpus, device)]

    def command(run: Run) -> list[str]:
        return [*words, "--only", run.name]

    say(f"folder: {plan.out}")
    if changes := changes_line(plan.profile, plan.changes):
        say(changes)
    return run_plan(plan, command, jobs=jobs, threads=threads, say=say)


def process_words(gpus: int | None, device: str | None) -> list[str]:
    """The device options of each run."""
    return [*(["--gpus", str(gpus)] if gpus else []), *(["--device", device] if device else [])]


def _share(plan: StudyPlan, jobs: int | None, gpus: int | None, device: str | None) -> tuple[int, int | None]:
    """Number of simultaneous runs, and CPU threads of each if they share the CPU."""
    import torch

    if gpus or ((device or "cuda") != "cpu" and torch.cuda.is_available()):
        return jobs or 1, None
    cores = cpus_usable()
    if jobs is None:
        jobs = min(cores, _MOST_JOBS, len(plan.runs)) if plan.profile == "mini" else 1
    return jobs, max(1, cores // jobs) if jobs > 1 else None


def run_study(
    study: str,
    *,
    profile: str | None = None,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    weights: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    pretraining_overrides: Sequence[str] = (),
    pretrain: bool = False,
    gpus: int | None = None,
    device: str | None = None,
    latency: bool = True,
    say: Callable[[str], None] | None = None,
) -> StudyReport:
    """Run a study of the papers as `pvtctl ablate` does, and write its report; finished runs are kept.

    `out` is the directory of all studies (default: `studies` in `$PVTCTL_RUNS` or `runs`). Failed runs are marked in
    the table. `latency` times the paper's models at the paper's size; `say` receives log lines. The other arguments
    are those of `StudyRequest` and `run_rows`.

    Raises UsageError for unknown studies, rows and profiles, for directories with runs of other settings, and when no
    row has finished; Stopped when a signal ended it.
    """
    from pvtctl.engine.log import silent
    from pvtctl.studies.report import write_study

    tell = say or silent
    root = Path(out) if out is not None else runs_root() / "studies"
    request = StudyRequest(
        study,
        root.expanduser(),
        profile,
        tuple(rows),
        seeds,
        Path(data) if data is not None else None,
        dict(weights or {}),
        tuple(overrides),
        tuple(pretraining_overrides),
        pretrain,
    )
    plan = request.plan()
    run_rows(request, plan, jobs=jobs, gpus=gpus, device=device, say=tell)
    return write_study(plan, latency=latency, device=device, say=tell)
