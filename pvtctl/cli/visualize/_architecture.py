"""`pvtctl visualize architecture`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import typer

from pvtctl.cli._models import check_backbones, check_sizes, chosen_head, size_text
from pvtctl.cli._options import examples
from pvtctl.cli.visualize._options import Output

EPILOG = examples(
    "pvtctl visualize architecture --backbone pvt_small --size 224",
    "pvtctl visualize architecture --backbone pvt_small,pvt_v2_b2,vit_small_patch16,resnet50 --out compared.svg",
    "pvtctl visualize architecture --backbone pvt_v2_b0 --head retinanet --size 800x1280",
)


def architecture(
    *,
    backbone: str = typer.Option(..., help="A name listed by `pvtctl models ls`, or several: A,B,C."),
    head: str = typer.Option("classifier", metavar="HEAD", help="Head of the model, as in `pvtctl flops`."),
    num_classes: int | None = typer.Option(None, min=1, help="Default: the papers'."),
    size: str | None = typer.Option(
        None,
        metavar="HxW",
        help="Image size, or several: one picture each. Default: 224; segmentation 512, depth 384, DPT's segmentation 480.",
    ),
    output: Output,
) -> None:
    """Draw backbones stage by stage, side by side: shapes at a size, heads, reductions, tokens, parameters and MACs.

    Costs are those of `pvtctl flops`; all bars of a picture have the same scale. The small squares show the
    resolution of a map relative to the image. The model is not run, so large sizes take no longer.
    """
    names = check_backbones(backbone)
    sizes = check_sizes(size, chosen_head(head), num_classes)
    from pvtctl.explain.architecture import describe_architecture, draw_architectures
    from pvtctl.views.figure import save

    pictures = output.open("architecture", "-".join(names), len(sizes))
    for each in sizes:
        columns = [describe_architecture(name, each, head=head, num_classes=num_classes) for name in names]
        label = size_text(each)
        facts: dict[str, Any] = {"size": list(each), "models": [asdict(column) for column in columns]}
        figure = draw_architectures(columns)
        pictures.add(label, partial(save, figure, dpi=130), title=f"{', '.join(names)} at {label}", **facts)
    title = f"Architecture of {', '.join(names)}"
    pictures.close(title, f"With {head}, at {len(sizes)} sizes.", {"head": head})
