"""`pvtctl pretrain`: train a backbone as a classifier from scratch, by a paper's recipe; what `finetune` shares with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pvtctl.cli._console import print_json, print_text, table
from pvtctl.cli._options import (
    AS_JSON,
    DEVICE,
    FOLDER,
    GPUS,
    INSIDE,
    OVERRIDES,
    PARTIAL,
    App,
    argument,
    bundle,
    examples,
    option,
    shared,
)
from pvtctl.cli._resolve_recipe import DataChoice, Override, choose_data, choose_recipe
from pvtctl.errors import ExitCode, PvtctlError, ToldElsewhereError, UsageError
from pvtctl.extensions import command_words, require_for_run
from pvtctl.io.console import say
from pvtctl.runs.paths import default_out, given_weights

if TYPE_CHECKING:
    from pvtctl.engine import Distributed, DryRunReport
    from pvtctl.recipe.schema import Recipe
    from pvtctl.runs.train import RunResult


app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl pretrain scenes --backbone pvt_tiny",
    "pvtctl pretrain imagenet --backbone pvt_small --data /data/imagenet --gpus 8",
    "pvtctl pretrain photos/ --backbone pvt_v2_b0 --set train.epochs=50",
)


@bundle
class TrainOptions:
    """Options of `pvtctl pretrain`, most of them also of `finetune`."""

    data: str = argument(
        metavar="DATA", help="imagenet, scenes (the built-in data), or a folder with train/CLASS and val/CLASS."
    )
    backbone: str | None = option(help="A name listed by `pvtctl models ls`, or timm:NAME. Default: pvt_small.")
    recipe: str | None = option(
        help="A name listed by `pvtctl recipes ls` or a YAML file. Default: the table with the backbone."
    )
    weights: str | None = option(
        help="Start from a checkpoint file, a run directory, a published name, hf:OWNER/NAME, timm:NAME.TAG or timm."
    )
    inside: str | None = shared(INSIDE)
    partial: bool = shared(PARTIAL)
    profile: str | None = option(help="Scale: paper, mini (minutes on a CPU), smoke. Default: paper; mini for scenes.")
    folder: str | None = shared(FOLDER)
    out: Path | None = option(help="Run directory. Default: $PVTCTL_RUNS (or runs)/RECIPE-ROW[-PROFILE].")
    resume: bool = option("--resume", default=False, help="Resume the run in that directory.")
    overrides: list[str] = shared(OVERRIDES)
    gpus: int | None = shared(GPUS)
    device: str | None = shared(DEVICE)
    compile: bool = option("--compile", default=False, help="Compile the model: slower to start, faster to run.")
    dry_run: bool = option("--dry-run", default=False, help="Run one step, estimate memory and time, write nothing.")
    as_json: bool = shared(AS_JSON)

    def load_modules(self) -> None:
        """Load the modules of the run that is resumed."""
        if self.resume and self.out is not None:
            require_for_run(self.out)

    @property
    def start(self) -> str | None:
        """The weights to start from; None: random ones."""
        return given_weights(self.weights) if self.weights else None

    def settings(self) -> list[Override]:
        """All overrides of the recipe."""
        weights: list[Override] = [("model.weights", self.start)] if self.weights else []
        compiled: list[Override] = [("train.compile", True)] if self.compile else []
        return [*weights, *compiled, *self.overrides]


@app.command(epilog=EPILOG)
def pretrain(context: typer.Context, options: TrainOptions) -> None:
    """Train a backbone as a classifier from scratch, by a paper's recipe.

    Prints a table of measured and published results, and writes a run directory with recipe, environment, metrics, best
    weights, curves.png and report.html. Ctrl-C, SIGTERM and SIGUSR1 save and stop the run; --resume continues it.
    """
    options.load_modules()
    data = choose_data(options.data, options.folder)
    if data.name not in ("imagenet", "scenes"):
        raise UsageError(
            f"{options.data} is in the layout of {data.name}, and pretrain trains classifiers",
            f"pvtctl finetune {options.data}",
        )
    recipe = choose_recipe(
        data,
        backbone=options.backbone,
        recipe=options.recipe,
        profile=options.profile,
        task="classification",
        overrides=options.settings(),
    )
    train_command(context, options, recipe, data)


def in_processes(gpus: int | None, device: str | None, arguments: list[str]) -> None:
    """With `--gpus N`, N > 1: run `pvtctl ARGUMENTS` in N processes and exit with their code. Else return.

    Raises UsageError if N < 1 or more than the available GPUs (except with `--device cpu`).
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
        if code > 128 and code != ExitCode.INTERRUPTED:  # it could not report why
            raise PvtctlError(f"a process was ended by signal {code - 128}", "9: for lack of memory?", exit_code=code)
        if code:
            raise ToldElsewhereError("a process failed", exit_code=code)
        raise typer.Exit


def arguments_of(context: typer.Context) -> list[str]:
    """The current command line without `--gpus`, for the processes that `--gpus` starts."""
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
    return [*arguments, *command_words(), "--", *positional]


@contextmanager
def one_voice(dist: Distributed) -> Iterator[None]:
    """Report an error shared by several processes only on rank 0, and one of a single process by that process."""
    from pvtctl.engine import Stopped
    from pvtctl.engine.distributed import lost_process

    try:
        yield
    except PvtctlError as error:
        if dist.is_main or isinstance(error, UsageError | ToldElsewhereError):
            raise
        if not isinstance(error, Stopped):
            say(f"process {dist.rank}: {error.message}")
        raise ToldElsewhereError(error.message, exit_code=error.exit_code) from error
    except RuntimeError as error:
        lost = lost_process(error) if dist.world_size > 1 else None
        if lost is None:
            raise
        if dist.is_main or "answered" in lost:  # the first process may be the one that does not answer
            say(lost if dist.is_main else f"process {dist.rank}: {lost}")
        raise ToldElsewhereError(lost) from error


def train_command(context: typer.Context, options: TrainOptions, recipe: Recipe, data: DataChoice) -> None:
    """Train in as many processes as asked for, and show the results. Raises PvtctlError as `train`."""
    if options.dry_run and options.resume:
        raise UsageError("--dry-run and --resume exclude each other", "leave out one of them")
    in_processes(options.gpus, options.device, arguments_of(context))
    train(
        recipe,
        options.out or default_out(recipe, data.label),
        device=options.device,
        resume=options.resume,
        partial=options.partial,
        dry_run=options.dry_run,
        as_json=options.as_json,
    )


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str | None,
    resume: bool,
    partial: bool = False,
    dry_run: bool = False,
    as_json: bool = False,
) -> None:
    """Run `recipe`, print and write the results. Raises PvtctlError, including Stopped (exit code 75 or 130)."""
    from pvtctl.engine import start_distributed, stop_distributed
    from pvtctl.runs.train import train_recipe, try_recipe

    dist = start_distributed(device)
    try:
        with one_voice(dist):
            if dry_run:
                report = try_recipe(recipe, dist, partial=partial, say=say)
                if dist.is_main:
                    _show_dry_run(recipe, report, as_json)
            elif result := train_recipe(recipe, out, dist, resume=resume, partial=partial, say=say):
                _show(result, as_json)
    finally:
        stop_distributed()


def _show_dry_run(recipe: Recipe, report: DryRunReport, as_json: bool) -> None:
    from pvtctl.runs.report import duration

    if as_json:
        print_json({"dry_run": asdict(report), "recipe": recipe.plain_values()})
        return
    rows = [
        ("precision", report.precision),
        ("loss of the first step", f"{report.loss:.3f}"),
        ("images per step", str(report.images_per_step)),
        ("steps", str(report.steps)),
        ("parameters", f"{report.parameters:,}, {report.frozen_parameters:,} of them frozen"),
        ("time per step", f"{report.step_seconds:.2f} s"),
        ("time of loading the first batch", f"{report.load_seconds:.2f} s"),
        ("time of a validation batch", f"{report.val_batch_seconds:.2f} s x {report.val_batches or '?'}"),
        ("checkpoint", f"{report.checkpoint_bytes / 2**20:.0f} MiB, {report.save_seconds:.2f} s"),
        (f"peak memory ({report.memory})", f"{report.peak_memory_bytes / 2**30:.2f} GiB"),
        ("time of the whole run, about", duration(report.run_seconds)),
    ]
    table("Dry run: nothing was written", ["what", "value"], rows)


def _show(run: RunResult, as_json: bool) -> None:
    from pvtctl.runs.paper_table import result_rows

    summary, result = run.summary, run.fit
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
        print_text(f"{name}: {path}")


def differences_line(score: str, paper: str, differences: Sequence[str]) -> str | None:
    """Why the score (accuracy, AP) is not comparable with the paper's."""
    return f"{score} not comparable with {paper}: {'; '.join(differences)}" if differences else None


def say_skipped(skipped: Mapping[str, str]) -> None:
    """List the images that could not be read."""
    if not skipped:
        return
    say(f"warning: {len(skipped)} image(s) could not be read and were left out:")
    for name, reason in list(skipped.items())[:10]:
        say(f"  {name}: {reason}")
    if len(skipped) > 10:
        say("  ... all are listed in report.html")
