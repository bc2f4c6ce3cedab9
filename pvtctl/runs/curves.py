"""Curves of several runs: loss, main scores and learning rate over steps, epochs, images or time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pvtctl.engine.run_files import read_lines
from pvtctl.errors import UsageError
from pvtctl.runs.read_run import FinishedRun
from pvtctl.tasks.registry import task_spec

if TYPE_CHECKING:
    from pvtctl.views.curves import CurvePanel, Series

# Matplotlib takes a second to import: the views are imported where something is drawn.

Axis = Literal["steps", "epochs", "images", "time"]
What = Literal["loss", "score", "lr"]
AXES: dict[Axis, str] = {
    "steps": "step",
    "epochs": "epoch",
    "images": "images seen, thousands",
    "time": "hours of the run",
}
"""x axis -> its label."""


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest unique endings of the paths."""
    parts = [path.absolute().parts for path in paths]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in names if names.count(name) > 1)
    raise UsageError(f"{twice} is named twice", "name each run once")


def panels_of(runs: Sequence[FinishedRun], names: Sequence[str], what: Sequence[What], axis: Axis) -> list[CurvePanel]:
    """A panel for each of `what` that the runs have recorded; a task may have two scores.

    Raises UsageError for scores of several tasks, and for an axis of epochs if a run has not finished one.
    """
    from pvtctl.views.curves import CurvePanel

    tasks = list(dict.fromkeys(run.recipe.task for run in runs))
    if len(tasks) > 1 and "score" in what:
        told = ", ".join(
            f"{task} ({names[next(at for at, run in enumerate(runs) if run.recipe.task == task)]})" for task in tasks
        )
        raise UsageError(f"the runs are of several tasks: {told}", "compare runs of one task, or draw --only loss")
    drawn_runs = [
        (run, name if run.status == "finished" else f"{name} ({run.status})", _places(run, axis, name))
        for run, name in zip(runs, names, strict=True)
    ]

    def series(lines_of: Callable[[FinishedRun], list[dict[str, Any]]], value: Callable[[Any], Any]) -> list[Series]:
        return [_series(label, lines_of(run), place, value) for run, label, place in drawn_runs]

    panels = []
    if "loss" in what:
        units = {task_spec(task).curves.loss for task in tasks}
        unit = units.pop() if len(units) == 1 else "sum of the losses"
        panels.append(
            CurvePanel("Training loss", unit, series(lambda run: run.training, lambda line: line.get("loss")))
        )
    if "score" in what:
        spec = task_spec(tasks[0])
        for key, title in spec.compared_curves:

            def score(line: Any, key: str = key) -> float | None:
                value = (line.get("ema_metrics") or line.get("metrics") or {}).get(key)
                return None if value is None else 100 * value

            drawn = series(lambda run: run.evaluations, score)
            if key == spec.main_score or any(each.xs for each in drawn):
                panels.append(CurvePanel(f"{title} on the validation images", "percent", drawn, from_zero=True))
    if "lr" in what:
        rates = series(lambda run: run.training, lambda line: line.get("lr"))
        panels.append(CurvePanel("Learning rate", "", rates, from_zero=True))
    return panels


def damage(run: FinishedRun) -> str | None:
    """A note if the last line of a log is truncated, as after a killed run."""
    try:
        read_lines(run.path / "metrics.jsonl")
    except UsageError as error:
        return f"{error.message}, which is left out"
    return None


def _series(
    label: str,
    lines: Sequence[dict[str, Any]],
    place: Callable[[float], float],
    value: Callable[[dict[str, Any]], float | None],
) -> Series:
    from pvtctl.views.curves import Series

    # a resumed run may have logged a step twice: the later line is used
    found = {line["step"]: value(line) for line in lines if isinstance(line.get("step"), int)}
    points = [(place(step), float(number)) for step, number in sorted(found.items()) if number is not None]
    points = [(x, y) for x, y in points if math.isfinite(x)]
    return Series(label, [x for x, _ in points], [y for _, y in points])


def _places(run: FinishedRun, axis: Axis, name: str) -> Callable[[float], float]:
    """Function from a step to its position on the axis."""
    match axis:
        case "steps":
            return lambda step: step
        case "images":
            return lambda step: step * run.images_a_step / 1000
        case "epochs":
            length = _epoch_steps(run)
            if length is None:
                raise UsageError(f"{name} has not finished an epoch yet", "draw it over steps: --x steps")
            return lambda step: step / length
        case "time":
            clock = {line["step"]: line["seconds"] for line in run.training if "seconds" in line}
            steps = sorted(clock)

            def hours(step: float) -> float:
                """Time of the last training line up to `step`; evaluations only log their own duration."""
                at = bisect.bisect_right(steps, step) - 1
                return clock[steps[max(at, 0)]] / 3600 if steps else math.nan

            return hours


def _epoch_steps(run: FinishedRun) -> float | None:
    """Steps per epoch, from the first evaluation, else from the last line of a whole epoch."""
    for line in run.evaluations:
        if line.get("epoch") and line.get("step"):
            return float(line["step"]) / float(line["epoch"])
    last = max((int(line["epoch"]) for line in run.training), default=0)
    ends = [line["step"] / line["epoch"] for line in run.training if line["epoch"] < last]
    return max(ends) if ends else None
