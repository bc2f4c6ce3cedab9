"""Whether the scores of runs are comparable, and other differences between the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pvtctl.io.names import plural
from pvtctl.recipe.load import flat
from pvtctl.runs.paper_table import data_label
from pvtctl.runs.read_run import FinishedRun
from pvtctl.tasks.registry import spec_of, tasks_reading

_NO_RESULT = {
    "data.name",
    "data.path",
    "data.train_samples",
    "data.val_samples",
    "data.workers",
    "eval.batch_size",
    "eval.backend",
    "train.batch_size",
    "train.accumulate",
    "train.activation_checkpointing",
    "train.channels_last",
    "train.compile",
    "train.epochs",
    "train.eval_every",
    "train.iterations",
    "train.keep_checkpoints",
    "train.max_minutes",
    "train.max_steps",
    "train.save_minutes",
    "train.seed",
}
"""Settings that do not affect results, or are reported elsewhere."""
_NAMED = 6
"""Number of settings listed in a note."""


def run_differences(runs: Sequence[FinishedRun], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Reasons why the runs' scores are not comparable, and notes on other differences."""
    reasons: list[str] = []
    checks: list[tuple[str, Callable[[FinishedRun], str | None]]] = [
        ("data", lambda run: data_label(run.recipe)),
        ("validation images", lambda run: None if (images := run.score.get("images")) is None else f"{images:.0f}"),
        ("training images", lambda run: str(run.recipe.data.train_samples or "all")),
        ("profile", lambda run: run.recipe.profile),
        ("length of training", _planned),
        ("image size", lambda run: spec_of(run.recipe).sizes(run.recipe).label),
        ("evaluation", _evaluation),
    ]
    for name, what in checks:
        groups = _groups([what(run) for run in runs], labels)
        if len(groups) > 1:
            reasons.append(f"{name}: {_told(groups)}")
        elif name == "data" and (marks := _other_content(runs, labels)):
            reasons.append(f"data of one name and other content: {marks}")
    reasons += [
        f"{label} is {run.status} after {progress(run)}"
        for run, label in zip(runs, labels, strict=True)
        if run.status != "finished"
    ]
    return reasons, _notes(runs, labels)


def progress(run: FinishedRun) -> str:
    """`60 epochs`, or `15 of 60 epochs` for an unfinished run."""
    planned = _planned(run)
    if run.status == "finished":
        return planned
    last = max((int(line.get("epoch") or 0) for line in (*run.training, *run.evaluations)), default=0)
    train = run.recipe.train
    done = last if train.iterations is None and train.max_steps is None else _steps(run) or 0
    return f"{done} of {planned}"


def images_seen(run: FinishedRun) -> int | None:
    """Number of training images seen by the optimiser, including copies of repeated augmentation."""
    steps = _steps(run)
    return None if steps is None else steps * run.images_a_step


def _other_content(runs: Sequence[FinishedRun], labels: Sequence[str]) -> str:
    """Validation data with different fingerprints; except scenes, which are defined by their number and size."""
    if runs[0].recipe.data.name == "scenes":
        return ""
    marks = [run.environment[-1].get("data") if run.environment else None for run in runs]
    groups = _groups([mark.get("val") if isinstance(mark, dict) else None for mark in marks], labels)
    return _told(groups) if len(groups) > 1 else ""


def _steps(run: FinishedRun) -> int | None:
    result = run.info.get("result")
    if isinstance(result, dict) and isinstance(result.get("steps"), int):
        return int(result["steps"])
    return max((int(line.get("step") or 0) for line in (*run.training, *run.evaluations)), default=0) or None


def _planned(run: FinishedRun) -> str:
    train = run.recipe.train
    if train.max_steps is not None:
        return plural(train.max_steps, "step")
    return plural(train.epochs, "epoch") if train.iterations is None else plural(train.iterations, "step")


def _evaluation(run: FinishedRun) -> str:
    """Settings of `eval` that affect a score."""
    values = flat(run.recipe)
    told = [
        f"{key.removeprefix('eval.')} {value}"
        for key, value in values.items()
        if key.startswith("eval.") and key not in _NO_RESULT and value not in (None, [], False, "auto", "none")
    ]
    return ", ".join(told) or "plain"


def _notes(runs: Sequence[FinishedRun], labels: Sequence[str]) -> list[str]:
    notes = []
    seeds = _groups([str(run.recipe.train.seed) for run in runs], labels)
    if len(seeds) > 1:
        notes.append(f"seeds differ, so that small differences may be chance: {_told(seeds)}")
    recipes = [flat(run.recipe) for run in runs]
    task = runs[0].recipe.task
    changed = [
        key
        for key in dict.fromkeys(key for recipe in recipes for key in recipe)
        if key.startswith(("data.", "train."))
        and key not in _NO_RESULT
        and all(task in tasks_reading(".".join(key.split(".")[:depth])) for depth in (2, 3))
        and len({str(recipe.get(key)) for recipe in recipes}) > 1
    ]
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        notes.append(f"settings that differ besides the model: {', '.join(changed[:_NAMED])}{more}")
    versions = _groups([str(run.info.get("version")) for run in runs], labels)
    if len(versions) > 1:
        notes.append(f"written by different versions of pvtctl: {_told(versions)}")
    return notes


def _groups(values: Sequence[str | None], labels: Sequence[str]) -> dict[str, list[str]]:
    """Value -> labels that have it; missing values are left out."""
    groups: dict[str, list[str]] = {}
    for value, label in zip(values, labels, strict=True):
        if value is not None:
            groups.setdefault(value, []).append(label)
    return groups


def _told(groups: dict[str, list[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in groups.items())
