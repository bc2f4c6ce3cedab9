"""`pvtctl pretrain`: train a backbone as a classifier from scratch, by a paper's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.cli._options import AsJson, Compile, DataFolder, Device, DryRun, Gpus, Overrides, Partial, Profile, Resume
from pvtctl.cli._resolve_recipe import Override, choose_data, choose_recipe
from pvtctl.cli._train import TrainOptions, arguments_of, in_processes, train
from pvtctl.cli._weights import given_weights
from pvtctl.errors import UsageError
from pvtctl.extensions import require_for_run
from pvtctl.runs.paths import default_out

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl pretrain scenes --backbone pvt_tiny

pvtctl pretrain imagenet --backbone pvt_small --data /data/imagenet --gpus 8

pvtctl pretrain photos/ --backbone pvt_v2_b0 --set train.epochs=50
"""


@app.command(epilog=EPILOG)
def pretrain(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="imagenet, scenes (the built-in data), or a folder with train/CLASS and val/CLASS."
        ),
    ],
    backbone: Annotated[
        str | None, typer.Option(help="A name listed by `pvtctl models ls`, or timm:NAME. Default: pvt_small.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A name listed by `pvtctl recipes ls` or a YAML file. Default: the table with the backbone."),
    ] = None,
    profile: Profile = None,
    folder: DataFolder = None,
    weights: Annotated[
        str | None, typer.Option(help="Start from a checkpoint file, a run directory or a published name.")
    ] = None,
    partial: Partial = False,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. Default: $PVTCTL_RUNS (or runs)/RECIPE-ROW[-PROFILE].")
    ] = None,
    resume: Resume = False,
    overrides: Overrides = None,
    gpus: Gpus = None,
    device: Device = None,
    compile: Compile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a backbone as a classifier from scratch, by a paper's recipe.

    Prints a table of measured and published results, and writes a run directory with recipe, environment, metrics, best
    weights, curves.png and report.html. Ctrl-C, SIGTERM and SIGUSR1 save and stop the run; --resume continues it.
    """
    if resume and out is not None:
        require_for_run(out)
    chosen_data = choose_data(data, folder)
    if chosen_data.name not in ("imagenet", "scenes"):
        raise UsageError(
            f"{data} is in the layout of {chosen_data.name}, and pretrain trains classifiers", f"pvtctl finetune {data}"
        )
    settings: list[Override] = []
    settings += [("model.weights", given_weights(weights))] if weights else []
    settings += [("train.compile", True)] if compile else []
    settings += overrides or []
    chosen = choose_recipe(
        chosen_data, backbone=backbone, recipe=recipe, profile=profile, task="classification", overrides=settings
    )
    out = out or default_out(chosen, chosen_data.label)
    options = TrainOptions(out, resume, device, partial, dry_run, as_json)
    in_processes(gpus, device, arguments_of(context))
    train(chosen, options)
