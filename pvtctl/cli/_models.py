"""Options and tables of the commands that build models from names: `flops`, `latency`, `compare`. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import typer

from pvtctl.cli._console import parse_sizes, table
from pvtctl.cli._options import bundle, option
from pvtctl.io.tables import csv_text, markdown_table
from pvtctl.models.backbone_names import TIMM_PREFIX, split_list, split_name
from pvtctl.models.registry import (
    DEPTH,
    DETECTION,
    PLAIN_HEADS,
    SEGMENTATION,
    HeadSpec,
    backbone_spec,
    counted_head,
    head_specs,
)


class TableFormat(StrEnum):
    """Output format."""

    table = "table"
    markdown = "markdown"
    csv = "csv"
    json = "json"


class Count(StrEnum):
    """Counting conventions (`pvtctl.cost.counting`)."""

    ops = "ops"
    paper = "paper"


def chosen_head(text: str) -> HeadSpec | None:
    """The head that `--head` names; None for the plain ones. Raises UsageError with the nearest names."""
    return None if text in PLAIN_HEADS else counted_head(text)


def _head_help() -> str:
    """Help text of `--head`, by task."""
    parts = ["classifier", "none: the bare pyramid"]
    for task in (DETECTION, SEGMENTATION, DEPTH):
        if names := ", ".join(spec.name for spec in head_specs() if spec.tasks == (task,)):
            parts.append(f"{names}: {task}")
    both = ", ".join(spec.name for spec in head_specs() if len(spec.tasks) > 1)
    return "; ".join([*parts, f"{both}: depth, and with --num-classes segmentation."])


def check_backbones(text: str) -> list[str]:
    """Parse `A,B` into names, each once, without options that change nothing; raises UsageError with the nearest valid ones
    if one is unknown.
    """
    names = list(dict.fromkeys(backbone_spec(name).name for name in split_list(text)))
    for name in names:
        if name.startswith(TIMM_PREFIX):
            from pvtctl.models.backbones.timm_build import check_timm_name  # imports torch

            check_timm_name(split_name(name).name.removeprefix(TIMM_PREFIX))
    return names


def check_sizes(text: str | None, head: HeadSpec | None, num_classes: int | None) -> list[tuple[int, int]]:
    """Parse `A,B` into sizes; None: the papers' size for `head`. Raises UsageError."""
    if text is not None:
        return parse_sizes(text)
    side = 224 if head is None else head.sizes.get(head.task_of(num_classes), 224)
    return [(side, side)]


def size_text(size: Sequence[int]) -> str:
    """`800x1280`, height x width."""
    return f"{size[0]}x{size[1]}"


COUNT = typer.Option(Count.ops, help="ops: convolutions, linears, matrix products. paper: as in the papers.")
FORMAT = typer.Option(TableFormat.table, "--format", help="Output format.")
JSON_FORMAT = typer.Option(False, "--json", help="Short for --format json.")
_FINER = " and ".join(spec.name for spec in head_specs() if spec.bottleneck_stride)


@bundle
class ModelOptions:
    """Options of `flops` and `latency` that name models."""

    backbone: str = option(
        default="pvt_small",
        help="One or several, with commas; `pvtctl models ls` lists them. NAME@0.5 is half as wide, "
        "NAME+sr_ratios=4,2,1,1 has other sizes (`pvtctl models show NAME` prints them).",
    )
    size: str | None = option(
        help="Image size, or several: 224,512,800x1280 (height x width, 32 to 8192). Default: 224; segmentation 512, "
        "depth 384, DPT's segmentation 480."
    )
    head: str = option(default="classifier", metavar="HEAD", help=_head_help())
    num_classes: int | None = option(
        min=1, help="Default: 1000 for classifiers, 80 for detectors, 150 for segmentation."
    )
    output_stride: int | None = option(
        help=f"8, 16 or 32, for ResNets with bottlenecks. Default: 32; with {_FINER} 16."
    )

    @property
    def names(self) -> list[str]:
        """The backbones. Raises UsageError."""
        return check_backbones(self.backbone)

    @property
    def spec(self) -> HeadSpec | None:
        """The head; None for the plain ones. Raises UsageError."""
        return chosen_head(self.head)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Heights and widths. Raises UsageError."""
        return check_sizes(self.size, self.spec, self.num_classes)


def print_rows(form: TableFormat, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, texts: int) -> None:
    """Print a table as CSV, Markdown or for a terminal; the first `texts` columns are text, the others numbers."""
    match form:
        case TableFormat.csv:
            print(csv_text([columns, *rows]), end="")
        case TableFormat.markdown:
            print(markdown_table(columns, rows, texts=texts), end="")
        case _:
            table("", columns, rows)
