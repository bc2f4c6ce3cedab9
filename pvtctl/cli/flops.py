"""`pvtctl flops`: parameters and multiply-accumulates at any size."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json, print_text
from pvtctl.cli._models import (
    COUNT,
    FORMAT,
    JSON_FORMAT,
    Count,
    ModelOptions,
    TableFormat,
    print_rows,
    size_text,
)
from pvtctl.cli._options import App, examples
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.console import say
from pvtctl.io.files import require_picture

if TYPE_CHECKING:
    from pvtctl.cost.counting import Cost
    from pvtctl.cost.operations import Operations
    from pvtctl.cost.verify import Verification

app = App()

_UNIT = "1 MAC = one multiplication and one addition = 2 FLOPs; what the papers call GFLOPs are GMACs"
_PICTURES = (".png", ".svg", ".pdf")


_STAGES = typer.Option(
    False,
    "--stages",
    help="One row per part of the model. --stages ops, for PVT and ViT: per operation of each stage, next to those with "
    "R = 1, and the attention matrices.",
)
_PLOT = typer.Option(None, help="Also draw GMACs against size, or the operations, into this .png, .svg or .pdf file.")


class Detail(StrEnum):
    """What `--stages` lists."""

    ops = "ops"


@app.command(
    epilog=examples(
        "pvtctl flops --backbone pvt_small,resnet50 --head retinanet --size 800x1280 --count paper",
        "pvtctl flops --backbone pvt_small --size 800 --stages ops --plot sra.png",
    )
)
def flops(
    *,
    model: ModelOptions,
    count: Count = COUNT,
    stages: bool = _STAGES,
    detail: Detail | None = typer.Argument(None, metavar="[ops]", help="After --stages.", show_default=False),
    verify_macs: bool = typer.Option(
        False, "--verify", help="Count with fvcore and torch.utils.flop_counter too; needs one real forward pass."
    ),
    form: TableFormat = FORMAT,
    as_json: bool = JSON_FORMAT,
    plot: Path | None = _PLOT,
) -> None:
    """Count parameters and multiply-accumulates (MACs) of one image, without running the model.

    Mask R-CNN is counted on 1000 proposals and 100 detections.
    """
    sizes, names = model.sizes, model.names
    if plot is not None:
        require_picture(plot, _PICTURES, "--plot")
    if detail is not None:
        if not stages or verify_macs or count is not Count.ops:
            raise UsageError(
                "ops goes with --stages, and without --verify and --count paper", "pvtctl flops --stages ops"
            )
        _operations(model, TableFormat.json if as_json else form, plot)
        return

    from pvtctl.cost.counting import count as count_cost

    costs = [
        count_cost(
            name,
            hw,
            head=model.head,
            num_classes=model.num_classes,
            output_stride=model.output_stride,
            convention=count.value,
        )
        for name in names
        for hw in sizes
    ]
    checks = [_verified(cost, model.output_stride) for cost in costs] if verify_macs else []
    _print(costs, checks, TableFormat.json if as_json else form, by_stage=stages)
    if plot is not None:
        from pvtctl.cost.plot import plot_costs

        plot_costs(costs, plot)
        say(f"drew {plot}")
    for cost, check in zip(costs, checks, strict=False):
        if not check.agree:
            raise PvtctlError(
                f"the two counters differ by {check.difference:+.2%} for {cost.backbone} at {size_text(cost.size)}",
                "fvcore has no formula for some operation: see its uncounted operations in --json",
            )


def _operations(model: ModelOptions, form: TableFormat, plot: Path | None) -> None:
    """The work of `--stages ops`."""
    from pvtctl.cost.operations import operations

    options: dict[str, Any] = {
        "head": model.head,
        "num_classes": model.num_classes,
        "output_stride": model.output_stride,
    }
    found = [operations(name, size, **options) for name in model.names for size in model.sizes]
    if form is TableFormat.json:
        print_json({"rows": [each.cost.to_dict() | each.to_dict() for each in found]})
    else:
        columns = ["backbone", "size", "stage", "operation", "MACs", "share of MACs", "with R = 1"]
        print_rows(form, columns, [row for each in found for row in _operation_rows(each)], texts=4)
    if form in (TableFormat.table, TableFormat.markdown):
        print_text("")
        columns = ["backbone", "size", "stage", "blocks", "heads", "queries", "keys", "matrix of a block", "with R = 1"]
        print_rows(form, columns, [row for each in found for row in _attention_rows(each)], texts=3)
        say(f"matrix of a block: heads x queries x keys. {_UNIT}")
    if plot is not None:
        from pvtctl.cost.plot_operations import plot_operations

        plot_operations(found, plot)
        say(f"drew {plot}")


def _operation_rows(each: Operations) -> Iterator[list[Any]]:
    cost, whole = each.cost, each.unreduced
    last = ("total", "", cost.macs, whole.cost.macs if whole else None)
    for stage, name, macs, other in [*((row.stage, row.name, row.macs, r1) for row, r1 in each.beside()), last]:
        beside = "-" if other is None else other
        yield [cost.backbone, size_text(cost.size), stage, name, macs, f"{macs / cost.macs:.1%}", beside]


def _attention_rows(each: Operations) -> Iterator[list[Any]]:
    whole = [size.entries for size in each.unreduced.attention] if each.unreduced else ["-"] * len(each.attention)
    for size, beside in zip(each.attention, whole, strict=True):
        sizes = [size.blocks, size.heads, size.queries, size.keys, size.entries, beside]
        yield [each.cost.backbone, size_text(each.cost.size), size.stage, *sizes]


def _verified(cost: Cost, output_stride: int | None) -> Verification:
    from pvtctl.cost.verify import verify_macs

    say(f"verifying {cost.backbone} at {size_text(cost.size)}: one forward pass on the CPU")
    check = verify_macs(
        cost.backbone, cost.size, head=cost.head, num_classes=cost.num_classes, output_stride=output_stride
    )
    say(
        f"fvcore {check.fvcore_macs / 1e9:.3f}, torch.utils.flop_counter {check.torch_macs / 1e9:.3f} GMACs: "
        f"difference {check.difference:+.3%}"
    )
    return check


def _print(costs: list[Cost], checks: list[Verification], form: TableFormat, *, by_stage: bool) -> None:
    if form is TableFormat.json:
        documents = [cost.to_dict() for cost in costs]
        for document, check in zip(documents, checks, strict=False):
            names = ("fvcore_macs", "torch_macs", "difference", "fvcore_uncounted")
            document["verify"] = {name: getattr(check, name) for name in names}
        print_json({"rows": documents})
        return
    columns, rows = _stage_rows(costs) if by_stage else _rows(costs, checks, plain=form is TableFormat.csv)
    print_rows(form, columns, rows, texts=3 if by_stage else 4)
    if form is TableFormat.table:
        say(_UNIT)
        for cost in costs if len(costs) <= 4 else []:
            left_out = ", ".join(f"{name} x{times}" for name, times in cost.uncounted.items())
            say(f"not counted in {cost.backbone} at {size_text(cost.size)}: {left_out}")


def _rows(costs: list[Cost], checks: list[Verification], *, plain: bool) -> tuple[list[str], list[list[Any]]]:
    """Columns, and one row per model and size; `plain` gives counts instead of millions and billions."""
    columns = ["backbone", "head", "size", "count"]
    columns += (
        ["params", "trainable_params", "macs", "flops"] if plain else ["params M", "trainable M", "GMACs", "GFLOPs"]
    )
    rows: list[list[Any]] = []
    for cost in costs:
        numbers = [cost.params, cost.trainable_params, cost.macs, cost.flops]
        shown = numbers if plain else [f"{n / unit:.3f}" for n, unit in zip(numbers, (1e6, 1e6, 1e9, 1e9), strict=True)]
        rows.append([cost.backbone, cost.head, size_text(cost.size), cost.convention, *shown])
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
            rows.append([cost.backbone, size_text(cost.size), name, params, macs, f"{macs / cost.macs:.1%}"])
    return columns, rows


def _subtotals(parts: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Subtotals of a detector's backbone, neck and head; empty for other models."""
    sums: dict[str, tuple[int, int]] = {}
    for name, params, macs in parts:
        group = name.partition(".")[0]
        before = sums.get(group, (0, 0))
        sums[group] = before[0] + params, before[1] + macs
    return [(f"{group}, all", *both) for group, both in sums.items()] if "backbone" in sums else []
