"""Compare the scores and costs of runs or models, in a table with one column each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvtctl.cost.counting import Convention, count, count_own
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.names import plural
from pvtctl.latency.measure import Case
from pvtctl.models.registry import find_head
from pvtctl.runs.read_run import FinishedRun, read_run
from pvtctl.studies.cases import case_of, time_cases
from pvtctl.studies.comparability import run_differences
from pvtctl.studies.comparison import Comparison, Row, Subject, comparison_run_rows, cost_rows, score_rows
from pvtctl.tasks.registry import spec_of


@dataclass(frozen=True)
class LatencySettings:
    """Settings of the latency measurement: see `pvtctl.latency.measure.measure_latency`."""

    seconds: float = 3.0
    device: str = "cpu"
    on_progress: Callable[[str], None] = lambda text: None


def compare_runs(
    paths: Sequence[Path | str], *, convention: Convention = "ops", timing: LatencySettings | None = None
) -> Comparison:
    """Compare run directories of one task. Models are counted, and timed with `timing`, as they were trained, at their
    test size. Unfinished runs show the best evaluation so far.

    Raises UsageError if a directory contains no run, a run is given twice, tasks differ, or no run has a score yet.
    """
    _refuse_twice([Path(path).resolve() for path in paths], [str(path) for path in paths])
    runs = [read_run(path, finished=False) for path in paths]
    tasks = {run.recipe.task: run for run in runs}
    if len(tasks) > 1:
        told = ", ".join(f"{run.path} is {task}" for task, run in tasks.items())
        raise UsageError(f"runs of different tasks have no score in common: {told}", "compare those of one task")
    if not any(run.score for run in runs):
        told = ", ".join(f"{run.path} ({run.status})" for run in runs)
        raise UsageError(f"nothing was scored yet: {told}", "wait for the first evaluation, or continue with --resume")
    labels = labels_of([run.path for run in runs])
    subjects = [_of_run(run, label, convention) for run, label in zip(runs, labels, strict=True)]
    subjects, machine = _timed(subjects, timing)
    not_comparable, notes = run_differences(runs, labels)
    rows = score_rows(subjects, comparable=not not_comparable and len(runs) > 1)
    rows += [*cost_rows(subjects, convention), *comparison_run_rows(subjects)]
    task = runs[0].recipe.task
    title = f"{len(runs)} runs: {task}" if len(runs) > 1 else f"{labels[0]}: {task}"
    notes += _notes_of_costs(subjects, convention, machine)
    return Comparison(title, tuple(subjects), tuple(rows), tuple(not_comparable), tuple(notes), machine)


def compare_models(
    backbones: Sequence[str],
    *,
    head: str = "classifier",
    size: tuple[int, int] = (224, 224),
    convention: Convention = "ops",
    timing: LatencySettings | None = None,
) -> Comparison:
    """Compare backbones with `head` (of `count`) at `size` (height, width), as in the papers, with random weights.

    Raises UsageError for unknown or repeated names.
    """
    _refuse_twice(list(backbones), list(backbones))
    subjects = [
        Subject(name, Case(name, size, head=head), cost=count(name, size, head=head, convention=convention))
        for name in backbones
    ]
    subjects, machine = _timed(subjects, timing)
    rows = [*cost_rows(subjects, convention), Row("model", "model", tuple(subject.model for subject in subjects))]
    under = "" if head == "classifier" else " as bare pyramids" if head == "none" else f" under {head}"
    title = f"{', '.join(backbones)}{under} at {size[0]}x{size[1]}"
    notes = _notes_of_costs(subjects, convention, machine)
    return Comparison(title, tuple(subjects), tuple(rows), (), tuple(notes), machine)


def labels_of(paths: Sequence[Path]) -> list[str]:
    """The shortest unique endings of the paths: `mini`, or `pvt_small/seed0` if several end in `seed0`."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            break
    return labels


def _refuse_twice(things: Sequence[object], names: Sequence[str]) -> None:
    for at, thing in enumerate(things):
        if thing in things[:at]:
            raise UsageError(f"{names[at]} is named twice", "name each once")


def _of_run(run: FinishedRun, label: str, convention: Convention) -> Subject:
    figures, problems = {}, []
    try:
        figures = spec_of(run.recipe).shown_figures(run.score) if run.score else {}
    except KeyError as error:
        problems.append(f"its score lacks {error}")
    case, cost = None, None
    try:
        case = case_of(run)
        cost = count_own(case.backbone, case.head, case.num_classes, case.options, case.size, convention=convention)
    except (PvtctlError, RuntimeError) as error:
        problems.append(f"its model cannot be counted: {str(error).splitlines()[0]}")
    return Subject(label, case, run, figures, cost, problems=tuple(problems))


def _timed(subjects: list[Subject], timing: LatencySettings | None) -> tuple[list[Subject], dict[str, Any]]:
    """The subjects with their latencies, interleaved for equal sizes. A failure does not affect the others."""
    if timing is None:
        return subjects, {}
    cases = list(dict.fromkeys(subject.case for subject in subjects if subject.case is not None))
    groups = [[case for case in cases if case.size == size] for size in dict.fromkeys(case.size for case in cases)]
    found, failed, machine = time_cases(groups, strict=True, **vars(timing))
    timed = []
    for subject in subjects:
        if subject.case in found:
            subject = replace(subject, latency=found[subject.case])
        elif subject.case in failed:
            subject = replace(subject, problems=(*subject.problems, failed[subject.case]))
        timed.append(subject)
    return timed, machine


def _notes_of_costs(subjects: Sequence[Subject], convention: Convention, machine: dict[str, Any]) -> list[str]:
    how = "convolutions, linear layers and matrix products" if convention == "ops" else "as the papers counted"
    notes = [f"1 multiply-add (MAC) = 2 FLOPs; convention {convention}: {how}"]
    latencies = [subject.latency for subject in subjects if subject.latency is not None]
    if latencies:
        where = machine.get("gpu") or f"{machine['cpu']}, {plural(machine['threads'], 'thread')}"
        head = latencies[0].case.head
        what = "from photo to result" if find_head(head) is not None else "one forward pass"
        notes.append(
            f"latency and memory: inference of one image, {what}, float32, random weights, torch {machine['torch']} on "
            f"{where}"
        )
        shares = [each.others_cpu_share for each in latencies if each.others_cpu_share is not None]
        if shares and max(shares) > 0.05:
            notes.append(f"times may be too long: other processes used {max(shares):.0%} of this machine meanwhile")
    sizes = {subject.cost.size for subject in subjects if subject.cost}
    if len(sizes) > 1:
        notes.append("the models are tested at different sizes, so operations, times and memory are not ranked")
    if len({subject.cost.num_classes for subject in subjects if subject.cost}) > 1:
        notes.append("the models have different numbers of classes, so parameters are not ranked")
    tested = {subject.label: subject.run.recipe.eval for subject in subjects if subject.run}
    views = [
        label
        for label, each in tested.items()
        if each.flip or len(each.scales) > 1 or len(each.ratios) > 1 or each.window is not None
    ]
    if views:
        notes.append(f"costs are those of one view; several are merged in the score of {', '.join(views)}")
    return notes + [f"{subject.label}: {problem}" for subject in subjects for problem in subject.problems]
