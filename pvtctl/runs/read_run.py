"""Read the files of a run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pvtctl
from pvtctl.engine.run_files import find_runs, read_info, read_lines, read_run_recipe, read_starts
from pvtctl.errors import UsageError
from pvtctl.extensions import require_for_run
from pvtctl.io.foreign import found_instead
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.registry import spec_of


@dataclass(frozen=True)
class FinishedRun:
    """Content of a run directory. For unfinished runs, what there is so far (`read_run(finished=False)`)."""

    path: Path
    recipe: Recipe
    """The flat recipe at the start of the run."""
    info: dict[str, Any]
    """run.json."""
    score: dict[str, float]
    """Metrics of the best weights (fractions); empty if nothing was evaluated yet."""
    evaluations: list[dict[str, Any]]
    """Lines of metrics.jsonl: `epoch`, `step`, `metrics`, `seconds`."""
    training: list[dict[str, Any]]
    """Lines of metrics.jsonl: `epoch`, `step`, `loss`, `lr`, `images_per_s`, `seconds` ..."""
    environment: list[dict[str, Any]]
    """One entry per start of the run, from `pvtctl.engine.environment.describe_environment`."""

    @property
    def status(self) -> str:
        """running, finished, failed or stopped."""
        return str(self.info["status"])

    @property
    def images_a_step(self) -> int:
        """Images per optimiser step, including copies of repeated augmentation."""
        return images_a_step(self.recipe, self.environment)

    @property
    def main_score(self) -> float | None:
        """The task's main metric as a fraction: top-1, box AP, mIoU, delta < 1.25."""
        return self.score.get(spec_of(self.recipe).main_score)


def images_a_step(recipe: Recipe, starts: Sequence[Mapping[str, Any]]) -> int:
    """Images per optimiser step, from the recipe and environment.json, which has the number of processes."""
    train = recipe.train
    if train.batch_size is None:
        return train.total_batch
    return train.batch_size * train.accumulate * int(starts[-1].get("processes", 1) if starts else 1)


def read_run(path: Path | str, *, finished: bool = True) -> FinishedRun:
    """Read a run directory.

    With `finished`, unfinished runs are an error; otherwise what they have so far is read, and the score is that of the
    best evaluation. The last line of metrics.jsonl may be truncated, as after a killed run.

    Raises UsageError if there is no run, files are missing or damaged, or the recipe is of an incompatible version of
    pvtctl.
    """
    path = Path(path)
    info = _info(path)
    require_for_run(path)
    recipe = _recipe(path, info)
    if finished and info["status"] != "finished":
        reason = f": {info['reason']}" if info.get("reason") else ""
        hint = "wait until it has ended" if info["status"] == "running" else "continue it with --resume"
        raise UsageError(f"the run in {path} is not finished, but {info['status']}{reason}", hint)
    lines = read_lines(path / "metrics.jsonl", growing=True)
    evaluations = [line for line in lines if line.get("event") == "eval"]
    training = [line for line in lines if line.get("event") == "train"]
    scores: list[dict[str, float]] = [line.get("ema_metrics") or line.get("metrics") or {} for line in evaluations]
    main = spec_of(recipe).main_score
    score = info.get("score") or max(scores, key=lambda score: score.get(main, -math.inf), default={})
    return FinishedRun(path, recipe, info, score, evaluations, training, read_starts(path))


def _info(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        inside = (path.parent / "run.json").is_file()
        hint = f"did you mean {path.parent}?" if inside else "give the folder of a run, as --out named it"
        raise UsageError(found_instead(path, "the folder of a run") or f"there is no folder {path}", hint)
    file = path / "run.json"
    if not file.exists():
        if (path / "recipe.yaml").is_file():
            raise UsageError(f"the run in {path} is only half written: it has no run.json", "start it again elsewhere")
        below = [str(run) for run in find_runs(path, status=None)[:3]]
        raise UsageError(
            f"there is no run in {path}",
            f"there are runs below it: {', '.join(below)}" if below else "give a folder that holds run.json",
        )
    info = read_info(path)
    if info.get("status") is None:
        raise UsageError(f"{file} is not that of a run: it has no status", "give a folder that pvtctl trained in")
    return info


def _recipe(path: Path, info: dict[str, Any]) -> Recipe:
    if not (path / "recipe.yaml").exists():
        raise UsageError(f"the run in {path} is only half there: it has no recipe.yaml", "copy the whole folder")
    read_run_recipe(path)
    try:
        return load_recipe(path / "recipe.yaml")
    except UsageError as error:
        fault = next((line.strip() for line in error.message.splitlines()[1:]), error.message)
        if (version := info.get("version")) != pvtctl.__version__:
            raise UsageError(
                f"{path} was written by pvtctl {version}, this is {pvtctl.__version__}, and its recipe does not fit: "
                f"{fault}",
                f"read it with pvtctl {version}, or train it again",
            ) from error
        raise UsageError(f"{path} holds a recipe that cannot be read: {fault}", error.hint) from error
