"""`pvtctl eval`: score a run, a checkpoint or a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.cli._options import DataFolder, Device, Partial

app = typer.Typer(add_completion=False, rich_markup_mode=None)

EPILOG = """Examples:

pvtctl eval imagenet --backbone pvt_small

pvtctl eval runs/imagenet_pvt_v1-pvt_tiny-mini

pvtctl eval photos/ --weights model.safetensors --json
"""


@app.command("eval", epilog=EPILOG)
def evaluate(
    target: Annotated[
        str,
        typer.Argument(metavar="DATA|RUN", help="imagenet, scenes, a folder with val/CLASS, or the folder of a run."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint file, run folder or published name. Default: the newest finished run of the backbone on "
            "the data, else its published weights."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A name of `pvtctl models ls`. Default: the one of the weights, else pvt_small.")
    ] = None,
    folder: DataFolder = None,
    size: Annotated[
        str | None,
        typer.Option(help="Pixels of the square that is cropped. Default: what the weights were trained at."),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Short side before the crop. Default: in the recipe's proportion to the size.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time. Default: the recipe's.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Scale of the data: paper, mini, smoke. Default: that of the weights' run.")
    ] = None,
    partial: Partial = False,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html and pictures. Default: RUN/eval, or runs/eval-...; with --json, none."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document; fractions, not percent.")] = False,
) -> None:
    """Score a run, a checkpoint or a published model on validation images.

    Prints top-1, top-5, loss, calibration and the classes that go worst; writes report.html with the confusion matrix,
    the calibration diagram and a sheet of the worst images. A head of 1000 classes is scored by class name (wnid), so
    that a folder with some of the classes is scored right.
    """
    from pvtctl.cli._evaluate import EvalOptions, run_evaluation

    run_evaluation(
        EvalOptions(
            target=target,
            weights=weights,
            backbone=backbone,
            folder=folder,
            size=size,
            resize=resize,
            batch_size=batch_size,
            profile=profile,
            partial=partial,
            device=device,
            out=out,
            as_json=as_json,
        )
    )
