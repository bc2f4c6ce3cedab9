"""Options shared by `pretrain`, `finetune` and `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pvtctl.models.registry import DEPTH, DETECTION, SEGMENTATION, heads_of

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the data. Default: $PVTCTL_DATA/NAME, then data/NAME."),
]
Head = Annotated[
    str | None,
    typer.Option(
        help=f"Dense head on the backbone: {', '.join(heads_of(DETECTION))} (boxes); {', '.join(heads_of(SEGMENTATION))} "
        f"(label maps); {', '.join(heads_of(DEPTH))} (depth). Default: the first for the data's task."
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="classification, detection, segmentation or depth, if data and head do not determine it.",
    ),
]
Ratios = Annotated[
    str | None,
    typer.Option(help="Segmentation, depth: factors on the test size, whose predictions are merged: 0.75,1,1.25."),
]
Window = Annotated[
    str | None, typer.Option(metavar="HxW", help="Segmentation: size of a sliding window. Default: whole images.")
]
Stride = Annotated[str | None, typer.Option(metavar="HxW", help="Step of the window. Default: two thirds of it.")]
ScaleShift = Annotated[
    str | None,
    typer.Option(
        metavar="SCALE,SHIFT",
        help="For depth weights without it: metres = 1 / (SCALE x + SHIFT). DPT: 3.05e-4,0.1378 (NYUv2).",
    ),
]
Profile = Annotated[
    str | None, typer.Option(help="Scale: paper, mini (minutes on a CPU), smoke. Default: paper; mini for scenes.")
]
Partial = Annotated[bool, typer.Option("--partial", help="Accept weights that fill less than 95 % of the backbone.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the run in that directory.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.")
]
Gpus = Annotated[int | None, typer.Option(help="Processes to train with, one per GPU. Default: 1.")]
Device = Annotated[str | None, typer.Option(help="cuda or cpu. Default: cuda if available.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model: slower to start, faster to run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Run one step, estimate memory and time, write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
