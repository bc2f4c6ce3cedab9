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
    partial: Annotated[
        bool, typer.Option("--partial", help="Accept weights that fill less than 95 % of the backbone.")
    ] = False,
    recipe: Annotated[
        str, typer.Option(help="A name of `pvtctl recipes ls` or a YAML file.")
    ] = "finetune_classification",
    profile: Annotated[
        str | None, typer.Option(help="Scale: paper, mini (minutes on a CPU), smoke. Default: paper; mini for scenes.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Where the data lies. Default: $PVTCTL_DATA/NAME, then data/NAME."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: $PVTCTL_RUNS (or runs)/RECIPE-BACKBONE[-PROFILE][-DATA].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Processes to train with, one a GPU. Default: 1.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu. Default: cuda where there is one.")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model: slower to start, faster to run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a step of everything, estimate memory and time, write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
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
