"""`pvtctl finetune`: train a classifier on one's own data from pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.cli._choose import (
    DEFAULT_BACKBONE,
    Override,
    choose_data,
    choose_recipe,
    default_out,
    find_weights,
    given_weights,
    note,
)
from pvtctl.cli._options import AsJson, Compile, DataFolder, Device, DryRun, Gpus, Overrides, Partial, Profile, Resume
from pvtctl.cli._train import TrainOptions, arguments_of, in_processes, train

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl finetune photos/ --backbone pvt_small

pvtctl finetune photos/ --weights runs/imagenet_pvt_v1-pvt_tiny --set train.epochs=30

pvtctl finetune scenes --weights pvt_v2_b1.pth --profile mini
"""


@app.command(epilog=EPILOG)
def finetune(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder with train/CLASS and val/CLASS, or imagenet, or scenes (the built-in data)."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint file, run folder or published name. Default: the newest finished run of the backbone on "
            "imagenet, else its published weights."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A name of `pvtctl models ls`. Default: the one of the weights, else pvt_small.")
    ] = None,
    partial: Partial = False,
    recipe: Annotated[
        str, typer.Option(help="A name of `pvtctl recipes ls` or a YAML file.")
    ] = "finetune_classification",
    profile: Profile = None,
    folder: DataFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: $PVTCTL_RUNS (or runs)/RECIPE-BACKBONE[-PROFILE][-DATA].")
    ] = None,
    resume: Resume = False,
    overrides: Overrides = None,
    gpus: Gpus = None,
    device: Device = None,
    compile: Compile = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on your data from pretrained weights.

    Rows of the head are kept for classes that the weights know by the same name, the others start fresh. Ends with a
    table of results and a run folder like that of `pretrain`.
    """
    chosen_data = choose_data(data, folder)
    if weights is None:
        backbone = backbone or DEFAULT_BACKBONE
        found = find_weights(backbone, "imagenet", None)
        note(f"weights: {found.source} ({found.why})")
        weights = found.source
    elif backbone is None:
        backbone = backbone_of(weights)
    settings: list[Override] = [("model.weights", given_weights(weights))]
    settings += [("train.compile", True)] if compile else []
    settings += overrides or []
    chosen = choose_recipe(chosen_data, backbone=backbone, recipe=recipe, profile=profile, overrides=settings)
    out = out or default_out(chosen, chosen_data)
    in_processes(gpus, device, arguments_of(context))
    train(chosen, TrainOptions(out, resume, device, partial, dry_run, as_json))


def backbone_of(weights: str) -> str:
    """The backbone that a checkpoint holds, by its metadata or its shapes. Raises UsageError when it cannot be told."""
    from pvtctl.tasks.checkpoints import inspect_checkpoint

    found = inspect_checkpoint(weights).backbone
    note(f"backbone: {found}, which the weights hold")
    return found
