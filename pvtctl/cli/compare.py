"""`pvtctl compare`: compare runs, or backbones with a head."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from pvtctl.cli._console import parse_sizes, print_json, print_text, table
from pvtctl.cli._models import (
    COUNT,
    FORMAT,
    JSON_FORMAT,
    Count,
    TableFormat,
    check_backbones,
    check_sizes,
    chosen_head,
    print_rows,
)
from pvtctl.cli._options import App, examples
from pvtctl.errors import UsageError
from pvtctl.io.console import say
from pvtctl.models.backbone_names import split_list

if TYPE_CHECKING:
    from pvtctl.studies.budget import Selection
    from pvtctl.studies.comparison import Comparison

T = TypeVar("T")
app = App(rich_markup_mode=None)

EPILOG = examples(
    "pvtctl compare runs/first runs/second",
    "pvtctl compare runs/* --no-latency --format markdown",
    "pvtctl compare runs/first runs/second --out comparison",
    "pvtctl compare --backbone pvt_small,resnet50 --size 224",
    "pvtctl compare --backbone pvt_v2_b0,pvt_v2_b1,resnet18 --head retinanet --size 256x320 --seconds 1",
    "pvtctl compare --budget 5GMACs --budget 30M",
    "pvtctl compare --budget 30ms --backbone pvt_v2_b0,pvt_v2_b1,resnet18 --size 192,224",
)
_PIPE_WIDTH = 120
_LONGEST_CELL = 26
"""Longer cells are folded."""


class Against(StrEnum):
    """Horizontal axis of the scatter plot."""

    params = "params"
    macs = "macs"
    latency = "latency"


@app.command("compare", epilog=EPILOG)
def compare_command(
    runs: list[Path] | None = typer.Argument(
        None, metavar="RUN...", help="Folders of runs of one task. Or --backbone."
    ),
    backbone: str | None = typer.Option(
        None, help="Models instead of runs: names with commas; `pvtctl models ls` lists them."
    ),
    head: str = typer.Option("classifier", metavar="HEAD", help="Head of the models, as in `pvtctl flops`."),
    size: str | None = typer.Option(
        None,
        metavar="HxW",
        help="Image size for --backbone; with --budget several, with commas. Default: 224; segmentation 512, depth 384. "
        "Runs: their test size.",
    ),
    budget: list[str] = typer.Option(
        [],
        metavar="LIMIT",
        help="Only what is within it, the best score first: 30ms (latency), 5GMACs, 25M (parameters), 500MiB (peak memory); "
        "repeatable. Without --backbone and runs: all of `pvtctl models ls`.",
    ),
    count: Count = COUNT,
    latency: bool = typer.Option(True, "--latency/--no-latency", help="Time the models on this machine, in turns."),
    seconds: float = typer.Option(3.0, min=0.01, help="Timed seconds per model (and at least 7 calls)."),
    device: str = typer.Option("auto", help="For times: cpu, cuda, cuda:1; auto uses a GPU if available."),
    x: Against | None = typer.Option(None, "--x", help="Single panel of the plot. Default: all available."),
    out: Path | None = typer.Option(None, help="New folder for compare.html, .md, .csv, .json and scatter.png, .svg."),
    form: TableFormat = FORMAT,
    as_json: bool = JSON_FORMAT,
) -> None:
    """Compare runs, or backbones with a head: one row per figure, one column per run.

    Scores, parameters, multiply-adds, times, memory, and the settings of each run. The best of a row is marked if the
    runs are comparable; differences between them are listed below the table.
    """
    if budget:
        if x is not None:
            raise UsageError("--x is not for --budget, which draws what it limits", "leave it out")
        if not latency:
            raise UsageError("--no-latency is not for --budget, which times only what a limit needs", "leave it out")
        from pvtctl.studies.budget import write_selection

        chosen = _written(
            out, lambda: _within_budget(budget, runs, backbone, head, size, count, seconds, device), write_selection
        )
        _print_selection(chosen, TableFormat.json if as_json else form)
        return
    if bool(runs) == bool(backbone):
        raise UsageError(
            "runs or --backbone, not both" if runs else "nothing to compare",
            "pvtctl compare runs/first runs/second, or pvtctl compare --backbone pvt_small,resnet50",
        )
    if runs and (size is not None or head != "classifier"):
        raise UsageError("--head and --size are not for runs", "--head and --size go with --backbone")
    names = [] if backbone is None else _names(backbone)
    if size is not None and len(parse_sizes(size)) > 1:
        raise UsageError("models are compared at one size", "with --budget, pvtctl flops and pvtctl latency at several")
    (hw,) = check_sizes(size, chosen_head(head), None)
    if x is not None and out is None:
        raise UsageError("--x is for the plot, and no plot is written", "add --out FOLDER")
    if x is Against.latency and not latency:
        raise UsageError("--x latency with --no-latency: nothing is timed", "leave one of them out")
    if backbone is not None and x is (Against.latency if latency else Against.params):
        raise UsageError(f"models without scores have their {x.value} upright already", "--x macs, or leave it out")

    from pvtctl.cli.latency import timed_device
    from pvtctl.studies.compare import LatencySettings, compare_models, compare_runs
    from pvtctl.studies.compare_report import write_comparison

    def compared() -> Comparison:
        timing = LatencySettings(seconds, timed_device(device), say) if latency else None
        if runs:
            return compare_runs(runs, convention=count.value, timing=timing)
        return compare_models(names, head=head, size=hw, convention=count.value, timing=timing)

    found = _written(
        out, compared, lambda folder, found: write_comparison(folder, found, against=x.value if x else None)
    )
    _print(found, TableFormat.json if as_json else form)


def _written(out: Path | None, compute: Callable[[], T], write: Callable[[Path, T], dict[str, Path]]) -> T:
    """What is computed, written into the new folder `out` if there is one, which is checked before."""
    if out is None:
        return compute()
    from pvtctl.io.files import new_folder, require_place

    require_place(out)
    with new_folder(out) as folder:
        found = compute()
        files = write(folder, found)
    say(f"wrote {', '.join(str(out / path.name) for path in files.values())}")
    return found


def _within_budget(
    budget: list[str],
    runs: list[Path] | None,
    backbone: str | None,
    head: str,
    size: str | None,
    count: Count,
    seconds: float,
    device: str,
) -> Selection:
    """The runs, the backbones named, or all of them that are within the limits."""
    if runs and (backbone is not None or size is not None or head != "classifier"):
        raise UsageError("--backbone, --head and --size are not for runs", "--head and --size go with --backbone")
    names = None if backbone is None else _names(backbone)
    sizes = None if size is None else check_sizes(size, chosen_head(head), None)
    chosen_head(head)

    from pvtctl.cli.latency import timed_device
    from pvtctl.studies.budget import parse_limits, select_models, select_runs
    from pvtctl.studies.compare import LatencySettings

    limits = parse_limits(budget)
    timing = LatencySettings(seconds, timed_device(device), say)
    if runs:
        return select_runs(runs, limits, convention=count.value, timing=timing)
    return select_models(names, limits, head=head, sizes=sizes, convention=count.value, timing=timing)


def _print_selection(found: Selection, form: TableFormat) -> None:
    from pvtctl.studies.budget import columns, line_cells, lines, to_document

    if form is TableFormat.json:
        print_json(to_document(found))
        return
    texts = form in (TableFormat.table, TableFormat.markdown)
    print_rows(form, columns(found), line_cells(found) if texts else lines(found), texts=3)
    for note in found.notes:
        say(note)


def _names(text: str) -> list[str]:
    names = [name for each in split_list(text) for name in check_backbones(each)]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise UsageError(f"{name} is named twice", "name each backbone once")
    return names


def _print(found: Comparison, form: TableFormat) -> None:
    from pvtctl.studies.compare_report import all_notes, to_csv, to_json, to_markdown

    match form:
        case TableFormat.json:
            print_text(to_json(found), end="")
        case TableFormat.csv:
            print_text(to_csv(found), end="")
        case TableFormat.markdown:
            print_text(to_markdown(found), end="")
        case TableFormat.table:
            print_text(found.title)
            for columns in _blocks(found):
                rows = [
                    [row.label, *(f"{row.cells()[at]} *" if at in row.best else row.cells()[at] for at in columns)]
                    for row in found.rows
                ]
                table("", ["", *(found.subjects[at].label for at in columns)], rows)
            if any(row.best for row in found.rows):
                print_text("* the best of its row")
            for note in all_notes(found):
                say(note)


def _blocks(found: Comparison) -> list[list[int]]:
    """Split the columns into blocks that fit into the terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    left = max(len(row.label) for row in found.rows) + 4
    blocks: list[list[int]] = [[]]
    used = left
    for at, subject in enumerate(found.subjects):
        longest = max(len(row.cells()[at]) + 2 * (at in row.best) for row in found.rows)
        needed = min(max(len(subject.label), longest), _LONGEST_CELL) + 3
        if blocks[-1] and used + needed > width:
            blocks.append([])
            used = left
        blocks[-1].append(at)
        used += needed
    return blocks
