"""What `pretrain` and `finetune` share: start processes, build, fit, and show what came out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._choose import data_place
from pvtctl.cli._console import print_json, say, table
from pvtctl.errors import ExitCode, PvtctlError, ToldElsewhereError, UsageError

if TYPE_CHECKING:
    from pvtctl.engine import Distributed, FitResult, FitSettings, RunFolder
    from pvtctl.recipe.schema import Recipe
    from pvtctl.tasks.build import Task
    from pvtctl.tasks.reports import RunSummary


@dataclass(frozen=True)
class TrainOptions:
    """How to run a recipe; what to run is the recipe."""

    out: Path
    resume: bool
    device: str | None
    partial: bool
    dry_run: bool
    as_json: bool


def in_processes(gpus: int | None, device: str | None, arguments: list[str]) -> None:
    """With `--gpus N`, N > 1: run `pvtctl ARGUMENTS` in N processes and end with their exit code. Else return.

    Raises UsageError for fewer than 1, and for more than there are (unless `--device cpu` asks for a trial).
    """
    if gpus is None:
        return
    if "RANK" in os.environ:
        raise UsageError("--gpus starts processes, but torchrun has started them already", "leave out --gpus")
    if gpus < 1:
        raise UsageError(f"--gpus {gpus} makes no sense", "use 1 or more, or leave it out")
    import torch

    here = torch.cuda.device_count()
    if gpus > here and device != "cpu":
        raise UsageError(
            f"--gpus {gpus}, but this machine has {here}",
            f"use --gpus {here}"
            if here
            else "leave out --gpus, or add --device cpu to try it with processes on the CPU",
        )
    if gpus > 1:
        from pvtctl.engine import launch

        code = launch([sys.executable, "-m", "pvtctl", *arguments], gpus)
        if code > 128 and code != ExitCode.INTERRUPTED:  # it had no chance to say why
            raise PvtctlError(f"a process was ended by signal {code - 128}", "9: for lack of memory?", exit_code=code)
        if code:
            raise ToldElsewhereError("a process failed", exit_code=code)
        raise typer.Exit


def arguments_of(context: typer.Context) -> list[str]:
    """The command line of the running command again, for the processes of `--gpus`, without `--gpus` itself."""
    arguments, positional = [str(context.info_name)], []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name == "gpus" or value is None or value is False:
            continue
        if parameter.param_type_name == "argument":
            positional.append(str(value))
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            arguments += [parameter.opts[0]] if one is True else [parameter.opts[0], str(one)]
    return [*arguments, "--", *positional]


@contextmanager
def one_voice(dist: Distributed) -> Iterator[None]:
    """Of several processes that end alike only the first says so; a fault of another one alone is told by it."""
    from pvtctl.engine import Stopped

    try:
        yield
    except PvtctlError as error:
        if dist.is_main or isinstance(error, UsageError | ToldElsewhereError):
            raise
        if not isinstance(error, Stopped):
            say(f"process {dist.rank}: {error.message}")
        raise ToldElsewhereError(error.message, exit_code=error.exit_code) from error
    except RuntimeError as error:
        if dist.world_size == 1 or "by peer" not in str(error):
            raise
        if dist.is_main:
            say("another process has ended, and this one cannot go on without it")
        raise ToldElsewhereError("another process has ended") from error


def train(recipe: Recipe, options: TrainOptions) -> None:
    """Run `recipe`, and print and write what came out. Raises PvtctlError, among them Stopped (exit code 75 or 130)."""
    from pvtctl.engine import start_distributed, stop_distributed

    dist = start_distributed(options.device)
    try:
        with one_voice(dist):
            _train(recipe, options, dist)
    finally:
        stop_distributed()


def _train(recipe: Recipe, options: TrainOptions, dist: Distributed) -> None:
    from pvtctl.engine.log import silent
    from pvtctl.engine.run import taken
    from pvtctl.tasks.build import build_task
    from pvtctl.tasks.of_recipe import fit_settings

    if options.resume and options.dry_run:
        raise UsageError("--dry-run starts nothing that --resume could go on with", "leave out one of them")
    if not options.resume and not options.dry_run:
        # Before anything is loaded; `RunFolder.open` asks again. By the first process alone: another one could be late
        # and find the folder that the first has made.
        dist.agree(taken(options.out) if dist.is_main else None)
    talk = say if dist.is_main else silent
    task = build_task(recipe, device=dist.device, world_size=dist.world_size, partial=options.partial, say=talk)
    settings = fit_settings(recipe, dist.world_size)
    task.batches_per_epoch(dist.world_size)  # too few images are told before there is a run folder
    talk(f"data: {data_place(recipe)}; {_data_line(task)}")
    if options.dry_run:
        _dry_run(recipe, task, settings, dist, options)
        return
    from pvtctl.engine import RunFolder
    from pvtctl.tasks.reports import report_run

    flat = recipe.model_dump(mode="json")
    notes = {"data": task.fingerprints()} if dist.is_main else {}
    with RunFolder.open(options.out, flat, resume=options.resume, dist=dist, notes=notes) as run:
        talk(f"run folder: {run.path}")
        run.record(num_classes=len(task.class_names))
        result = _fit(recipe, task, settings, run, dist)
        metric, skipped = _score_best(task, run, dist)
        if dist.is_main:
            steps = _steps_per_epoch(task, settings, dist)
            summary = report_run(run, task, recipe, result, metric, steps_per_epoch=steps, skipped=skipped)
            _show(summary, run, result, options.as_json)


def _data_line(task: Task) -> str:
    classes = f", {len(task.val.class_names)} classes" if task.val.class_names else ""
    return f"{len(task.train)} training and {len(task.val)} validation images{classes}"


def _layer_depths(recipe: Recipe, task: Task) -> Any:
    if recipe.train.optimizer.layer_decay == 1.0:
        return None
    from pvtctl.backbones import layer_depths

    return layer_depths(task.model)


def _dry_run(recipe: Recipe, task: Task, settings: FitSettings, dist: Distributed, options: TrainOptions) -> None:
    from pvtctl.engine import dry_run
    from pvtctl.engine.log import silent
    from pvtctl.tasks.reports import duration
    from pvtctl.weights import save_safetensors

    depths = _layer_depths(recipe, task)
    talk = say if dist.is_main else silent
    report = dry_run(task, settings, dist, save_weights=save_safetensors, layer_depths=depths, talk=talk)
    if not dist.is_main:
        return
    values = report.as_dict()
    if options.as_json:
        print_json({"dry_run": values, "recipe": recipe.model_dump(mode="json")})
        return
    rows = [
        ("precision", report.precision),
        ("loss of the first step", f"{report.loss:.3f}"),
        ("images per step", str(report.images_per_step)),
        ("steps", str(report.steps)),
        ("time per step", f"{report.step_seconds:.2f} s"),
        ("time of loading the first batch", f"{report.load_seconds:.2f} s"),
        ("time of a validation batch", f"{report.val_batch_seconds:.2f} s x {report.val_batches or '?'}"),
        ("checkpoint", f"{report.checkpoint_bytes / 2**20:.0f} MiB, {report.save_seconds:.2f} s"),
        (f"peak memory ({report.memory})", f"{report.peak_memory_bytes / 2**30:.2f} GiB"),
        ("time of the whole run, about", duration(report.run_seconds)),
    ]
    table("Dry run: nothing was written", ["what", "value"], rows)


def _fit(recipe: Recipe, task: Task, settings: FitSettings, run: RunFolder, dist: Distributed) -> FitResult:
    from pvtctl.engine import fit
    from pvtctl.tasks.reports import draw_epoch
    from pvtctl.weights import save_safetensors

    steps = _steps_per_epoch(task, settings, dist)

    def draw(folder: RunFolder) -> None:
        draw_epoch(folder, task, steps)

    return fit(
        task,
        settings,
        run,
        dist,
        save_weights=save_safetensors,
        after_eval=draw,
        layer_depths=_layer_depths(recipe, task),
    )


def _steps_per_epoch(task: Task, settings: FitSettings, dist: Distributed) -> int:
    return task.batches_per_epoch(dist.world_size) // settings.accumulate


def _score_best(task: Task, run: RunFolder, dist: Distributed) -> tuple[Any, dict[str, str]]:
    """Score the best weights as they were saved; the metric, and all images that any process could not read."""
    from pvtctl.engine import choose_precision, evaluate
    from pvtctl.weights import load_weights

    best, precision = dist.from_main((run.best_weights, run.info.get("precision", "auto")))
    load_weights(task.model, best, class_names=task.class_names or None)  # depth has none
    metric = evaluate(task, task.model, dist, choose_precision(precision, dist.device), title="best weights")
    skipped = {name: reason for own in dist.gather(task.skipped) for name, reason in own.items()}
    return metric, skipped


def _show(summary: RunSummary, run: RunFolder, result: FitResult, as_json: bool) -> None:
    from pvtctl.tasks.results import result_rows

    if as_json:
        printed = [figure for figure in summary.figures if figure.paper is not None]
        print_json(
            {
                "run": str(run.path),
                "metrics": summary.numbers,
                "best_epoch": result.best_epoch,
                "epochs": result.epochs,
                "steps": result.steps,
                "seconds": result.seconds,
                "skipped_steps": result.skipped,
                "skipped_images": summary.skipped,
                "paper": [figure.as_dict() for figure in printed],
                "differences": summary.differences,
                "notes": summary.notes,
                "files": {name: str(path) for name, path in summary.files.items()},
            }
        )
        return
    title = f"{summary.title}: best weights, epoch {result.best_epoch} of {result.epochs}"
    caption = differences_line(summary.score, summary.paper, summary.differences)
    table(title, *result_rows(summary.figures), caption=caption)
    for text in summary.notes:
        say(f"note: {text}")
    say_skipped(summary.skipped)
    for name, path in summary.files.items():
        print(f"{name}: {path}")


def differences_line(score: str, paper: str, differences: Sequence[str]) -> str | None:
    """Why the score (accuracy, AP) may not be set beside the paper's."""
    return f"{score} not comparable with {paper}: {'; '.join(differences)}" if differences else None


def say_skipped(skipped: Mapping[str, str]) -> None:
    """Name the images that could not be read."""
    if not skipped:
        return
    say(f"warning: {len(skipped)} image(s) could not be read and were left out:")
    for name, reason in list(skipped.items())[:10]:
        say(f"  {name}: {reason}")
    if len(skipped) > 10:
        say("  ... all are listed in report.html")
