"""Train a recipe: shared by `pretrain`, `finetune`, the studies and `pvtctl.run_recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pvtctl.engine import (
    Distributed,
    DryRunReport,
    FitResult,
    FitSettings,
    RunFolder,
    dry_run,
    evaluate,
    fit,
)
from pvtctl.engine.log import Say, silent
from pvtctl.engine.precision import scoring_precision
from pvtctl.engine.run import FREE_KEYS, taken
from pvtctl.engine.run_files import read_run_recipe, read_starts
from pvtctl.extensions import keep_copies, require_for_run
from pvtctl.io.console import say as say_on_stderr
from pvtctl.io.names import plural
from pvtctl.models.backbones import layer_depths
from pvtctl.models.fast_cpu.choices import Choices, active, before_measurement, is_off, using
from pvtctl.recipe.earlier import as_begun
from pvtctl.recipe.load import keys_of_other_heads
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import ComparedFigure
from pvtctl.runs.paths import data_place
from pvtctl.runs.report import RunSummary, draw_epoch, report_run
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task, extensions_of, fit_settings
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.save import save_safetensors


@dataclass(frozen=True)
class RunResult:
    """A finished run."""

    path: Path
    """The run directory: recipe, environment, metrics, checkpoints, best weights, curves and report.html."""
    fit: FitResult
    """Result of training: epochs, steps, seconds, the last and the best evaluation."""
    summary: RunSummary
    """Content of `report.html`: figures next to the paper's, why they are not comparable, files."""

    @property
    def numbers(self) -> dict[str, float]:
        """All figures of the best weights; scores are fractions (`top1` 0.751, `box_ap` 0.404)."""
        return self.summary.numbers

    @property
    def figures(self) -> list[ComparedFigure]:
        """The figures in the paper's table, each with the published value."""
        return self.summary.figures

    @property
    def best_epoch(self) -> int:
        """The epoch of the best weights, counted from 1."""
        return self.fit.best_epoch


def train_recipe(
    recipe: Recipe,
    out: Path,
    dist: Distributed,
    *,
    resume: bool = False,
    partial: bool = False,
    say: Say = say_on_stderr,
) -> RunResult | None:
    """Train `recipe` in the run directory `out`, evaluate its best weights and write its report.

    Args:
        resume: continue the run in `out`; a finished one returns its result.
        partial: accept weights that fill less than 95 % of the backbone.
        say: receives log lines; `silent` of `pvtctl.engine.log` hides the progress bars too.

    Returns:
        The result on rank 0, None on other ranks.

    Raises:
        UsageError: for a recipe that cannot be run, or an existing directory.
        Stopped: (exit code 75 or 130) when a signal or the time limit ended the run after saving.
        PvtctlError: when memory or disk ran out or the loss stayed non-finite.
    """
    talk = say if dist.is_main else silent
    if not resume:
        # Before anything is loaded; `RunFolder.open` checks again. On rank 0 only: a later process could find the
        # directory that rank 0 has created.
        dist.agree(taken(out) if dist.is_main else None)
    elif (out / "recipe.yaml").is_file():
        recipe = as_begun(recipe, read_run_recipe(out))
    with using(_kernels_of(out) if resume else active()):
        return _train(recipe, out, dist, resume=resume, partial=partial, talk=talk)


def _train(recipe: Recipe, out: Path, dist: Distributed, *, resume: bool, partial: bool, talk: Say) -> RunResult | None:
    task, settings = _prepare(recipe, dist, partial, talk)
    flat = recipe.plain_values()
    notes = {"data": task.fingerprints(), "kernels": asdict(active())} if dist.is_main else {}
    free = [*FREE_KEYS, *keys_of_other_heads(recipe)]
    with RunFolder.open(out, flat, resume=resume, dist=dist, notes=notes, free_keys=free) as run:
        talk(f"run directory: {run.path}")
        if dist.is_main:
            require_for_run(run.path, talk)  # a changed file is reported
            if used := extensions_of(recipe):
                keep_copies(used, run.path)
                run.record(modules=[extension.as_meta() for extension in used])
        run.record(num_classes=len(task.class_names))
        steps = task.batches_per_epoch(dist.world_size) // settings.train.accumulate
        result = fit(
            task,
            settings,
            run,
            dist,
            save_weights=save_safetensors,
            after_eval=lambda folder: draw_epoch(folder, task, steps),
            layer_depths=_layer_depths(recipe, task),
            talk=talk,
        )
        metric, skipped = _score_best(task, run, dist, talk)
        if not dist.is_main:
            return None
        summary = report_run(run, task, recipe, result, metric, steps_per_epoch=steps, skipped=skipped)
        return RunResult(run.path, result, summary)


def _kernels_of(out: Path) -> Choices:
    """The CPU kernels with which the run in `out` was begun, so that it is continued to the bit."""
    starts = read_starts(out)
    if not starts:
        return active()
    return Choices.from_json(starts[0].get("kernels")) or before_measurement(torch.backends.cpu.get_cpu_capability())


def try_recipe(recipe: Recipe, dist: Distributed, *, partial: bool = False, say: Say = say_on_stderr) -> DryRunReport:
    """Dry run of `recipe`: estimate time and memory without writing files. Raises as `train_recipe`."""
    talk = say if dist.is_main else silent
    task, settings = _prepare(recipe, dist, partial, talk)
    depths = _layer_depths(recipe, task)
    return dry_run(task, settings, dist, save_weights=save_safetensors, layer_depths=depths, talk=talk)


def _prepare(recipe: Recipe, dist: Distributed, partial: bool, talk: Say) -> tuple[DataTask, FitSettings]:
    task = build_task(recipe, device=dist.device, world_size=dist.world_size, partial=partial, say=talk)
    settings = fit_settings(recipe, dist.world_size)
    task.batches_per_epoch(dist.world_size)  # too few images are an error before the run directory is created
    classes = f", {plural(len(task.val.class_names), 'class')}" if task.val.class_names else ""
    images = f"{len(task.train)} training and {len(task.val)} validation images"
    talk(f"data: {data_place(recipe)}; {images}{classes}")
    if dist.device.type == "cpu":
        unmeasured = active() == Choices() and not is_off()
        hint = (
            "; pvtctl doctor --calibrate (some 20 seconds) measures which are faster, for later runs"
            if unmeasured
            else ""
        )
        talk(f"CPU kernels: {active()}{hint}")
    return task, settings


def _layer_depths(recipe: Recipe, task: DataTask) -> tuple[Mapping[str, int], int] | None:
    return None if recipe.train.optimizer.layer_decay == 1.0 else layer_depths(task.model)


def _score_best(task: DataTask, run: RunFolder, dist: Distributed, talk: Say) -> tuple[Any, dict[str, str]]:
    """Evaluate the saved best weights; the metric, and all images that any process could not read."""
    best, precision = dist.from_main((run.best_weights, run.info.get("precision", "auto")))
    load_checkpoint(task.model, best, class_names=task.class_names or None)  # depth has none
    chosen = scoring_precision(precision, dist.device)
    metric = evaluate(task, task.model, dist, chosen, title="best weights", shown=talk is not silent)
    skipped = {name: reason for own in dist.gather(task.skipped) for name, reason in own.items()}
    return metric, skipped
