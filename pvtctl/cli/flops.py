"""`pvtctl flops`: parameters and multiply-accumulates at any size."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import parse_sizes, print_json, table
from pvtctl.cli._heads import chosen_head, head_help
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.console import say
from pvtctl.models.registry import HeadSpec, backbone_spec, head_specs

if TYPE_CHECKING:
    from pvtctl.cost.counting import Cost
    from pvtctl.cost.verify import Verification

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_UNIT = "1 MAC = one multiplication and one addition = 2 FLOPs; what the papers call GFLOPs are GMACs"
_PICTURES = (".png", ".svg", ".pdf")


class Count(StrEnum):
    """Counting conventions (`pvtctl.cost.counting`)."""

    ops = "ops"
    paper = "paper"


class FlopsFormat(StrEnum):
    """Output format."""

    table = "table"
    markdown = "markdown"
    csv = "csv"
    json = "json"


SIZE_HELP = (
    "Image size, or several: 224,512,800x1280 (height x width, 32 to 8192). Default: 224; segmentation 512, depth 384, "
    "DPT's segmentation 480."
)
HEAD_HELP = head_help()
CLASSES_HELP = "Default: 1000 for classifiers, 80 for detectors, 150 for segmentation."
_FINER = " and ".join(spec.name for spec in head_specs() if spec.bottleneck_stride)
STRIDE_HELP = f"8, 16 or 32, for ResNets with bottlenecks. Default: 32; with {_FINER} 16."


@app.command(
    epilog="Example: pvtctl flops --backbone pvt_small,resnet50 --head retinanet --size 800x1280 --count paper"
)
def flops(
    backbone: str = typer.Option("pvt_small", help="One or several, with commas; `pvtctl models ls` lists them."),
    size: str | None = typer.Option(None, help=SIZE_HELP),
    count: Count = typer.Option(
        Count.ops, help="ops: convolutions, linears, matrix products. paper: as in the papers."
    ),
    head: str = typer.Option(
        "classifier", metavar="HEAD", help=f"{HEAD_HELP} Mask R-CNN is counted on 1000 proposals, 100 detections."
    ),
    num_classes: int | None = typer.Option(None, min=1, help=CLASSES_HELP),
    output_stride: int | None = typer.Option(None, help=STRIDE_HELP),
    stages: bool = typer.Option(False, "--stages", help="One row per part of the model."),
    verify_macs: bool = typer.Option(
        False, "--verify", help="Count with fvcore and torch.utils.flop_counter too; needs one real forward pass."
    ),
    form: FlopsFormat = typer.Option(FlopsFormat.table, "--format", help="Output format."),
    json: bool = typer.Option(False, "--json", help="Short for --format json."),
    plot: Path | None = typer.Option(None, help="Also draw GMACs against size into this .png, .svg or .pdf file."),
) -> None:
    """Count parameters and multiply-accumulates (MACs) of one image, without running the model."""
    sizes = check_sizes(size, chosen_head(head), num_classes)
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise UsageError(f"{plot} is not a picture's name", f"end it in {', '.join(_PICTURES)}")
    form = FlopsFormat.json if json else form
    names = check_backbones(backbone)

    from pvtctl.cost.counting import count as count_cost

    costs = [
        count_cost(
            name,
            hw,
            head=head,
            num_classes=num_classes,
            output_stride=output_stride,
            convention=count.value,
        )
        for name in names
        for hw in sizes
    ]
    checks = [_verified(cost, output_stride) for cost in costs] if verify_macs else []
    _print(costs, checks, form, by_stage=stages)
    if plot is not None:
        from pvtctl.cost.plot import plot_costs

        plot_costs(costs, plot)
        say(f"drew {plot}")
    for cost, check in zip(costs, checks, strict=False):
        if not check.agree:
            raise PvtctlError(
                f"the two counters differ by {check.difference:+.2%} for {cost.backbone} at {_by(cost.size)}",
                "fvcore has no formula for some operation: see its uncounted operations in --json",
            )


def check_backbones(text: str) -> list[str]:
    """Parse `A,B` into names; raises UsageError with the nearest valid ones if one is unknown."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        backbone_spec(name)
    return names


def check_sizes(text: str | None, head: HeadSpec | None, num_classes: int | None) -> list[tuple[int, int]]:
    """Parse `A,B` into sizes; None: the papers' size for `head`. Raises UsageError."""
    if text is not None:
        return parse_sizes(text)
    side = 224 if head is None else head.sizes.get(head.task_of(num_classes), 224)
    return [(side, side)]


def _verified(cost: Cost, output_stride: int | None) -> Verification:
    from pvtctl.cost.verify import verify_macs

    say(f"verifying {cost.backbone} at {_by(cost.size)}: one forward pass on the CPU")
    check = verify_macs(
        cost.backbone, cost.size, head=cost.head, num_classes=cost.num_classes, output_stride=output_stride
    )
    say(
        f"fvcore {check.fvcore_macs / 1e9:.3f}, torch.utils.flop_counter {check.torch_macs / 1e9:.3f} GMACs: "
        f"difference {check.difference:+.3%}"
    )
    return check


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _print(costs: list[Cost], checks: list[Verification], form: FlopsFormat, *, by_stage: bool) -> None:
    if form is FlopsFormat.json:
        print_json({"rows": _json_rows(costs, checks)})
        return
    columns, rows = _stage_rows(costs) if by_stage else _rows(costs, checks, plain=form is FlopsFormat.csv)
    if form is FlopsFormat.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
    elif form is FlopsFormat.markdown:
        numeric = columns.index("params" if by_stage else "params M")
        marks = ["---"] * numeric + ["---:"] * (len(columns) - numeric)
        for line in [columns, marks, *rows]:
            print("| " + " | ".join(str(cell) for cell in line) + " |")
    else:
        table("", columns, rows)
        say(_UNIT)
        for cost in costs if len(costs) <= 4 else []:
            left_out = ", ".join(f"{name} x{times}" for name, times in cost.uncounted.items())
            say(f"not counted in {cost.backbone} at {_by(cost.size)}: {left_out}")


def _json_rows(costs: list[Cost], checks: list[Verification]) -> list[dict[str, Any]]:
    documents = [cost.to_dict() for cost in costs]
    for document, check in zip(documents, checks, strict=False):
        document["verify"] = {
            "fvcore_macs": check.fvcore_macs,
            "torch_macs": check.torch_macs,
            "difference": check.difference,
            "fvcore_uncounted": check.fvcore_uncounted,
        }
    return documents


def _rows(costs: list[Cost], checks: list[Verification], *, plain: bool) -> tuple[list[str], list[list[Any]]]:
    """Columns, and one row per model and size; `plain` gives counts instead of millions and billions."""
    columns = ["backbone", "head", "size", "count", "params M", "trainable M", "GMACs", "GFLOPs"]
    if plain:
        columns = ["backbone", "head", "size", "count", "params", "trainable_params", "macs", "flops"]
    rows: list[list[Any]] = []
    for cost in costs:
        numbers: list[Any] = [cost.params, cost.trainable_params, cost.macs, cost.flops]
        if not plain:
            numbers = [f"{cost.params / 1e6:.3f}", f"{cost.trainable_params / 1e6:.3f}"]
            numbers += [f"{cost.macs / 1e9:.3f}", f"{cost.flops / 1e9:.3f}"]
        rows.append([cost.backbone, cost.head, _by(cost.size), cost.convention, *numbers])
    if checks:
        columns += ["fvcore GMACs", "torch GMACs", "difference"]
        for row, check in zip(rows, checks, strict=True):
            row += [f"{check.fvcore_macs / 1e9:.3f}", f"{check.torch_macs / 1e9:.3f}", f"{check.difference:+.3%}"]
    return columns, rows


def _stage_rows(costs: list[Cost]) -> tuple[list[str], list[list[Any]]]:
    columns = ["backbone", "size", "part", "params", "MACs", "share of MACs"]
    rows: list[list[Any]] = []
    for cost in costs:
        parts = [(part.name, part.params, part.macs) for part in cost.stages]
        for name, params, macs in [*parts, *_subtotals(parts), ("total", cost.params, cost.macs)]:
            rows.append([cost.backbone, _by(cost.size), name, params, macs, f"{macs / cost.macs:.1%}"])
    return columns, rows


def _subtotals(parts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Subtotals of a detector's backbone, neck and head; empty for other models."""
    groups = dict.fromkeys(name.partition(".")[0] for name, _, _ in parts)
    if "backbone" not in groups:
        return []
    inside = {group: [part for part in parts if part[0].partition(".")[0] == group] for group in groups}
    return [
        (f"{group}, all", sum(part[1] for part in own), sum(part[2] for part in own)) for group, own in inside.items()
    ]
