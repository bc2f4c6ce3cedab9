"""`pvtctl flops`: parameters and multiply-accumulates at any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json
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
from pvtctl.cli._options import App
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.console import say

if TYPE_CHECKING:
    from pvtctl.cost.counting import Cost
    from pvtctl.cost.verify import Verification

app = App()

_UNIT = "1 MAC = one multiplication and one addition = 2 FLOPs; what the papers call GFLOPs are GMACs"
_PICTURES = (".png", ".svg", ".pdf")


@app.command(
    epilog="Example: pvtctl flops --backbone pvt_small,resnet50 --head retinanet --size 800x1280 --count paper"
)
def flops(
    *,
    model: ModelOptions,
    count: Count = COUNT,
    stages: bool = typer.Option(False, "--stages", help="One row per part of the model."),
    verify_macs: bool = typer.Option(
        False, "--verify", help="Count with fvcore and torch.utils.flop_counter too; needs one real forward pass."
    ),
    form: TableFormat = FORMAT,
    as_json: bool = JSON_FORMAT,
    plot: Path | None = typer.Option(None, help="Also draw GMACs against size into this .png, .svg or .pdf file."),
) -> None:
    """Count parameters and multiply-accumulates (MACs) of one image, without running the model.

    Mask R-CNN is counted on 1000 proposals and 100 detections.
    """
    sizes, names = model.sizes, model.names
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise UsageError(f"{plot} is not a picture's name", f"end it in {', '.join(_PICTURES)}")

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
