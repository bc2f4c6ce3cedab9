"""`pvtctl data`: look at data sets before a run is spent on them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json, say, table
from pvtctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pvtctl.data.check import Verdict

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Check, preview, export and locate data sets. NAME is `imagenet` or `scenes` (the built-in renderer).",
)


class Layout(StrEnum):
    """What `data export` can write."""

    imagenet = "imagenet"
    coco = "coco"
    ade20k = "ade20k"
    nyu = "nyu"


_JSON = typer.Option(False, "--json", help="One JSON document on stdout.")
_WHERE = typer.Argument(
    help="A folder with train/ and val/, or NAME (looked for in $PVTCTL_DATA/NAME and ./data/NAME)."
)


@app.command(epilog="Example: pvtctl data check ~/imagenet --full")
def check(
    where: str = _WHERE,
    full: bool = typer.Option(False, "--full", help="Every image; otherwise at most 20000 of a split, evenly spread."),
    workers: int | None = typer.Option(None, min=0, help="Processes that read and decode (default: one a core)."),
    as_json: bool = _JSON,
) -> None:
    """Give a verdict on a data set in the ImageNet layout or in tar shards.

    Looks at layout, classes and images: unreadable, truncated, giant and tiny files, CMYK and other modes, EXIF
    rotation, empty classes, label gaps, classes that differ between train and val, the same image in both.

    Exit code 0: use it (notes at most). 1: a run survives it, but images are skipped or scores flattered.
    2: it cannot be used.
    """
    from pvtctl.data.check import check_data
    from pvtctl.data.loader import usable_cores

    name, root = _locate(where)
    if name == "scenes":
        raise UsageError("scenes is rendered: there are no files to check", "pvtctl data preview scenes draws it")
    processes = workers if workers is not None else usable_cores()
    verdict = _with_progress(
        lambda on_progress: check_data(root, full=full, workers=processes, on_progress=on_progress)
    )
    if as_json:
        print_json(verdict.to_json())
    else:
        _print_verdict(verdict)
    raise typer.Exit(int(verdict.exit_code))


@app.command(epilog="Example: pvtctl data preview scenes -o preview.png --count 4")
def preview(
    where: str = _WHERE,
    output: Path = typer.Option(Path("preview.png"), "-o", "--output", help="The PNG to write."),
    split: str = typer.Option("train", help="train or val."),
    count: int = typer.Option(6, min=1, max=100, help="Samples, one a row, spread over the classes."),
    copies: int = typer.Option(5, min=1, max=20, help="Training views of each sample."),
    size: int = typer.Option(224, min=32, max=1024, help="Image size in pixels."),
    recipe: str | None = typer.Option(
        None, help="Augment as this recipe does (a name or a file); otherwise as DeiT, PVT's own recipe."
    ),
    row: str | None = typer.Option(None, help="The recipe's row."),
    seed: int = typer.Option(0, min=0, help="Seed of the random numbers."),
) -> None:
    """Draw samples as they are evaluated and as training sees them, with their labels."""
    from pvtctl.data.dataset import open_split
    from pvtctl.data.preview import draw_preview
    from pvtctl.recipe.load import load_recipe
    from pvtctl.recipe.schema import Augment

    if row is not None and recipe is None:
        raise UsageError("--row needs --recipe", "for example: --recipe imagenet_pvt_v1 --row pvt_small")
    name, root = _locate(where)
    augment = load_recipe(recipe, row).data.augment if recipe else Augment()
    dataset = open_split(name, root, split, image_size=size, augment=augment.model_dump(), seed=seed)
    ids = draw_preview(dataset, output, count=count, copies=copies)
    say(f"{output}: {len(ids)} of {len(dataset)} {split} samples, {copies} training views each")


@app.command()
def ls(as_json: bool = _JSON) -> None:
    """Show which data sets are found, and where they are looked for."""
    from pvtctl.data.dataset import DATA_NAMES, data_places

    rows = [_found(name, data_places(name)) for name in DATA_NAMES]
    if as_json:
        print_json({"rows": rows})
        return
    table(
        "",
        ["data", "where", "classes", "train", "val", "state"],
        [[row[key] if row[key] is not None else "-" for key in row] for row in rows],
    )


@app.command(epilog="Example: pvtctl data export scenes --layout imagenet --to data/imagenet --train 600 --val 120")
def export(
    name: str = typer.Argument(help="`scenes`, the one data set that is made here."),
    layout: Layout = typer.Option(..., help="The layout whose readers it is for."),
    to: Path = typer.Option(..., help="The folder to write."),
    train: int = typer.Option(600, min=1, help="Training images."),
    val: int = typer.Option(120, min=1, help="Validation images."),
    size: int = typer.Option(224, min=32, max=1024, help="Image size in pixels."),
    seed: int = typer.Option(0, min=0, help="Seed of the renderer."),
) -> None:
    """Write the built-in scenes as files, in the layout of a real data set."""
    from pvtctl.data.export import export_scenes

    if name != "scenes":
        raise UsageError(
            f"only scenes can be exported, not {name!r}", "pvtctl data export scenes --layout imagenet --to DIR"
        )
    _with_progress(
        lambda on_progress: export_scenes(
            to, layout.value, train=train, val=val, size=size, seed=seed, on_progress=on_progress
        )
    )
    say(f"{to}: {train} train and {val} val images in the {layout.value} layout")


def _locate(where: str) -> tuple[str, Path]:
    """(data set name, folder) of an argument that is either."""
    from pvtctl.data.dataset import DATA_NAMES, find_data
    from pvtctl.errors import nearest

    if where in DATA_NAMES:
        return where, find_data(where)
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"no data folder {folder}", f"give a folder with train/ and val/, or {nearest(where, DATA_NAMES)}"
        )
    return "imagenet", folder


def _found(name: str, places: list[Path]) -> dict[str, Any]:
    from pvtctl.data.dataset import open_source
    from pvtctl.errors import PvtctlError

    row: dict[str, Any] = {"name": name, "where": None, "classes": None, "train": None, "val": None, "state": ""}
    if name == "scenes":
        place, row["where"], row["state"] = Path(), "built in", "rendered on the fly"
    else:
        found = next((place for place in places if place.is_dir()), None)
        if found is None:
            row["state"] = f"not found: looked for {', '.join(str(place) for place in places)}"
            return row
        place, row["where"] = found, str(found)
    for split in ("train", "val"):
        try:
            source = open_source(name, place, split)
        except PvtctlError as error:
            row["state"] = error.message
        else:
            row["classes"], row[split] = len(source.class_names), len(source.ids)
    row["state"] = row["state"] or "found"
    return row


def _with_progress(work: Any) -> Any:
    """Run `work(on_progress)` under a bar for each split, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}

        def on_progress(split: str, done: int, total: int) -> None:
            if split not in bars:
                bars[split] = progress.add_task(split, total=total)
            progress.update(bars[split], completed=done)

        return work(on_progress)


def _print_verdict(verdict: Verdict) -> None:
    for split, images in verdict.images.items():
        looked_at = verdict.examined[split]
        part = "" if looked_at == images else f", {looked_at} of them examined (--full for all)"
        print(f"{split}: {images} images{part}")
    print(f"classes: {verdict.classes}")
    if verdict.problems:
        table(
            "",
            ["severity", "what", "split", "count", "means", "for example"],
            [
                [item.severity, item.kind, item.split, item.count, item.meaning, item.examples[0]]
                for item in verdict.problems
            ],
        )
    words = {"ok": "ok: use it", "warnings": "usable, with losses", "unusable": "cannot be used"}
    print(f"verdict: {words[verdict.verdict]} (exit code {int(ExitCode(verdict.exit_code))})")
