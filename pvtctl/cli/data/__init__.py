"""`pvtctl data`: check, preview, convert, export and fetch data sets."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json, print_text, table, with_progress
from pvtctl.cli._options import AS_JSON, OVERRIDES, TASK, App
from pvtctl.cli.data._settings import data_settings
from pvtctl.errors import ExitCode, UsageError
from pvtctl.io.console import byte_progress, say
from pvtctl.io.foreign import found_instead, reason_of, require_folder
from pvtctl.io.names import plural, shown, with_count
from pvtctl.io.urls import is_url, keep_secrets

if TYPE_CHECKING:
    from pvtctl.data.check import DatasetVerdict
    from pvtctl.data.convert.to_coco import DatasetConversion
    from pvtctl.recipe.schema import Data

app = App(
    no_args_is_help=True,
    help="Check, preview, convert, export, fetch and locate data sets. NAME is listed by `pvtctl data ls`; `scenes` is "
    "the built-in renderer.",
)


class Layout(StrEnum):
    """Layouts that `data export` writes."""

    imagenet = "imagenet"
    coco = "coco"
    ade20k = "ade20k"
    nyu = "nyu"


class ConvertSource(StrEnum):
    """Layouts that `data convert` reads."""

    voc = "voc"
    yolo = "yolo"


class Exif(StrEnum):
    """What is done with EXIF rotations."""

    apply = "apply"
    ignore = "ignore"


_PLACE = (
    "A folder (with train/ and val/, with COCO's annotations/, with images/ and masks/, with rgb/ and depth/), the URL of "
    "tar shards, or NAME (looked for in $PVTCTL_DATA/NAME and ./data/NAME)."
)
_WHERE = typer.Argument(help=_PLACE)


@app.command("check", epilog="Example: pvtctl data check ~/imagenet --full")
def data_check(
    where: str | None = typer.Argument(None, help=_PLACE),
    images: Path | None = typer.Option(None, help="The image folder of --annotations."),
    annotations: Path | None = typer.Option(None, help="A COCO annotation file, instead of a folder in COCO's layout."),
    full: bool = typer.Option(
        False,
        "--full",
        help="Check every image; otherwise at most 20000 per split, evenly spread, or those of 4 shards at a URL.",
    ),
    pairs: Path | None = typer.Option(
        None, metavar="FILE.png", help="Draw pictures of val that are nearly those of train here, if there are any."
    ),
    workers: int | None = typer.Option(None, min=0, help="Processes that read and decode. Default: one per core."),
    overrides: list[str] = OVERRIDES,
    as_json: bool = AS_JSON,
) -> None:
    """Check a data set: class folders or tar shards, boxes in COCO's format, label maps, or depth.

    Checks layout, classes and images: unreadable, truncated, huge and tiny files, CMYK and other modes, EXIF rotation,
    empty classes, label gaps, classes that differ between train and val, the same or nearly the same image in both.
    For COCO sets also every annotation: ids, boxes, polygons and masks, images that are missing or of another size,
    what was mended or dropped, boxes that look like corners, centres or shares, splits without an object.
    For label maps and depth every pair: values outside the class list, colour-coded masks, other sizes, images without
    a mask, an implausible depth scale; it suggests the setting to try with `--set data.KEY=VALUE`.

    Exit code 0: usable (notes at most). 1: usable, but images are skipped or scores too high. 2: unusable.
    """
    from pvtctl.data.preview import check_png
    from pvtctl.io.machine import cpus_usable
    from pvtctl.tasks.registry import task_spec, tasks_of_data

    if (where is None) == (images is None and annotations is None):
        raise UsageError("name a folder, or --images and --annotations", "for example: pvtctl data check data/coco")
    name, root = _locate(where) if where is not None else ("coco", None)
    if name == "scenes":
        raise UsageError("scenes is rendered: there are no files to check", "pvtctl data preview scenes draws it")
    if name == "mix":
        raise UsageError("mix is several sets of depth", "pvtctl data check FOLDER looks at one of them")
    spec = task_spec(tasks_of_data(name)[0])
    settings = _settings_at(where, data_settings(overrides))
    processes = workers if workers is not None else cpus_usable()

    def work(on_progress: Any) -> DatasetVerdict:
        options: dict[str, Any] = {
            "full": full,
            "workers": processes,
            "on_progress": on_progress,
            "pairs_picture": pairs,
        }
        if root is None:
            options |= {"images": images, "annotations": annotations}
        return spec.check_data(name, root, settings, **options)

    if pairs is not None:
        check_png(pairs)
    verdict = with_progress(work)
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
    count: int = typer.Option(6, min=1, max=100, help="Samples, one per row, spread over the split."),
    copies: int | None = typer.Option(None, min=1, max=20, help="Training views of each (5; 3 for dense data)."),
    size: int | None = typer.Option(
        None,
        min=32,
        max=1024,
        help="Image size in pixels (224); for boxes, label maps and depth, the size drawn.",
    ),
    recipe: str | None = typer.Option(
        None,
        help="Augment as this recipe does (a name or a file); otherwise as DeiT, RetinaNet, Semantic FPN or DPT.",
    ),
    row: str | None = typer.Option(None, help="The recipe's row."),
    task: str | None = TASK,
    overrides: list[str] = OVERRIDES,
    seed: int = typer.Option(0, min=0, help="Seed of the random numbers."),
) -> None:
    """Draw samples as used in evaluation and as augmented in training, with labels, boxes, masks or depth."""
    from pvtctl.recipe.load import load_recipe
    from pvtctl.tasks.base import PreviewRequest
    from pvtctl.tasks.registry import task_spec, tasks_of_data

    if row is not None and recipe is None:
        raise UsageError("--row needs --recipe", "for example: --recipe imagenet_pvt_v1 --row pvt_small")
    name, root = _locate(where)
    given = load_recipe(recipe, row, overrides=overrides) if recipe else None
    data = _settings_at(where, given.data if given else data_settings(overrides))
    task = task or (given.task if given and name == "scenes" else tasks_of_data(name)[0])
    if task not in tasks_of_data(name):
        raise UsageError(f"{name} has no data for {task}", f"--task {' | '.join(tasks_of_data(name))}")
    say(task_spec(task).preview(PreviewRequest(name, root, output, data, split, count, copies, size, seed)))


@app.command("ls")
def data_ls(as_json: bool = AS_JSON) -> None:
    """List the data sets found, the folders searched, and the data sets that can be fetched."""
    from pvtctl.data.find import DATA_NAMES, data_places
    from pvtctl.data.public_sets import public_sets

    public = {entry.name: entry for entry in public_sets()}
    rows = [_found(name, data_places(name)) for name in dict.fromkeys((*DATA_NAMES, *public))]
    for row in rows:
        entry = public.get(row["name"])
        row["fetch"] = f"pvtctl data fetch {entry.name}" if entry else None
        row["gigabytes"] = round(sum(each.size for each in entry.archives) / 1e9, 1) if entry else None
        row["terms"] = entry.terms if entry else None
    if as_json:
        print_json({"rows": rows})
        return
    columns = {"name": "data", "fetch": "to get it", "gigabytes": "GB"}
    keys = ("name", "where", "classes", "train", "val", "state", "fetch", "gigabytes")
    cells = [["-" if row[key] is None else row[key] for key in keys] for row in rows]
    table("", [columns.get(key, key) for key in keys], cells)


@app.command("convert", epilog="Example: pvtctl data convert VOCdevkit/VOC2007 --from voc --to data/coco")
def data_convert(
    source: Path = typer.Argument(help="The folder with the labels, and with the images unless --images names them."),
    layout: ConvertSource = typer.Option(
        ..., "--from", help="voc: Pascal-VOC XML. yolo: text files, boxes or polygons."
    ),
    to: Path = typer.Option(..., help="The folder to write, in COCO's layout."),
    images: Path | None = typer.Option(None, help="Where the images are, if not below SOURCE."),
    classes: Path | None = typer.Option(
        None,
        help="A file with one class name per line. Default: sorted (voc), or from data.yaml or classes.txt (yolo).",
    ),
    val_share: float | None = typer.Option(
        None, help="Fraction of images to draw for val. Default: by the source's data.yaml, lists or folders, else 0.2."
    ),
    seed: int = typer.Option(0, min=0, help="Seed of the draw."),
    zero_based: bool = typer.Option(
        False,
        "--zero-based",
        help="voc: boxes are pixel edges from 0, as written by LabelImg and others, not the devkit's.",
    ),
    exif: Exif = typer.Option(
        Exif.apply,
        help="Labels of photos with an EXIF rotation are those of the picture as shown, or as stored (ignore).",
    ),
    copy: bool = typer.Option(
        False, "--copy", help="Copy the images; otherwise they become hard links where possible."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Write a detection set in Pascal-VOC or YOLO layout as COCO JSON with its images. The source is unchanged."""
    from dataclasses import asdict

    from pvtctl.data.convert.to_coco import convert_to_coco as convert_set

    if zero_based and layout is not ConvertSource.voc:
        raise UsageError("--zero-based is for --from voc", "YOLO's coordinates are shares of the image")
    done = with_progress(
        lambda on_progress: convert_set(
            source,
            layout.value,
            to,
            images=images,
            classes=classes,
            val_share=val_share,
            seed=seed,
            zero_based=zero_based,
            exif=exif is Exif.apply,
            copy=copy,
            on_progress=on_progress,
        )
    )
    _say_conversion(done)
    if as_json:
        print_json(asdict(done))
    else:
        print_text(done.path)


def _say_conversion(done: DatasetConversion) -> None:
    """Print what was written and what was left out, on stderr."""
    origin = {
        "yaml": "splits by the source's data.yaml",
        "lists": "splits by the source's lists",
        "folders": "splits by the source's folders",
        "share": "the source has no splits, or --val-share was given: val is drawn",
    }
    for split, images in done.images.items():
        say(f"{split}: {plural(images, 'image')}, {plural(done.objects[split], 'object')}")
    named = ", ".join(shown(name, most=80) for name in done.classes[:10])
    say(f"classes: {len(done.classes)} ({named}{', ...' if len(done.classes) > 10 else ''})")
    say(origin[done.split_by])
    for note in done.notes:
        more = ", ..." if note.count > len(note.examples) else ""
        say(f"note: {with_count(note.meaning, note.count)} ({', '.join(note.examples)}{more})")


@app.command("fetch", epilog="Example: pvtctl data fetch coco --split val")
def data_fetch(
    name: str = typer.Argument(help="A data set that can be fetched (see `pvtctl data ls`)."),
    split: str | None = typer.Option(None, help="train or val only."),
    mirror: str | None = typer.Option(None, help="Address that replaces scheme and host; else $PVTCTL_MIRROR."),
    folder: Path | None = typer.Option(None, "--from", help="Use the archives in this folder instead of downloading."),
    to: Path | None = typer.Option(None, help="The set's folder; else $PVTCTL_DATA/NAME, else ./data/NAME."),
    keep: bool = typer.Option(False, "--keep", help="Keep the archives after they are unpacked."),
) -> None:
    """Download a public data set and unpack it. Interrupted downloads are resumed."""
    from pvtctl.data.fetch import fetch_set
    from pvtctl.data.public_sets import find_public

    entry = find_public(name)
    if entry is not None:
        say(f"{entry.title}\nterms: {entry.terms}\nhashes: {entry.hashes}")
    with byte_progress() as watch:
        path = fetch_set(name, to=to, split=split, mirror=mirror, folder=folder, keep=keep, watch=watch)
    print_text(path)


@app.command(
    "export", epilog="Example: pvtctl data export scenes --layout imagenet --to data/imagenet --train 600 --val 120"
)
def data_export(
    name: str = typer.Argument(help="Only `scenes`."),
    layout: Layout = typer.Option(..., help="Layout to write."),
    to: Path = typer.Option(..., help="The folder to write."),
    train: int = typer.Option(600, min=1, help="Training images."),
    val: int = typer.Option(120, min=1, help="Validation images."),
    size: int = typer.Option(224, min=32, max=1024, help="Image size in pixels."),
    seed: int = typer.Option(0, min=0, help="Seed of the renderer."),
) -> None:
    """Write the built-in scenes as files in a standard layout."""
    from pvtctl.data.scenes.export import export_scenes

    if name != "scenes":
        raise UsageError(
            f"only scenes can be exported, not {name!r}", "pvtctl data export scenes --layout imagenet --to DIR"
        )
    with_progress(
        lambda on_progress: export_scenes(
            to, layout.value, train=train, val=val, size=size, seed=seed, on_progress=on_progress
        )
    )
    say(f"{to}: {train} train and {val} val images in the {layout.value} layout")


def _locate(where: str) -> tuple[str, Path]:
    """(data set name, folder) of an argument that is one of them."""
    from pvtctl.data.find import DATA_NAMES, find_data
    from pvtctl.data.layouts import guess_layout, require_known_layout
    from pvtctl.errors import nearest

    if where in (*DATA_NAMES, "mix"):
        return where, find_data(where)
    if is_url(where):
        return "imagenet", Path()  # where it is, is said by `_settings_at`
    folder = Path(where).expanduser()
    require_folder(folder, f"give a folder with train/ and val/, or {nearest(where, DATA_NAMES)}")
    if (layout := guess_layout(folder)) in (None, "coco"):
        require_known_layout(folder)
    return layout or "imagenet", folder


def _settings_at(where: str | None, settings: Data) -> Data:
    """The settings of data, with the URL that names it."""
    if not is_url(where):
        return settings
    return settings.model_copy(update={"path": keep_secrets(str(where))})


def _found(name: str, places: list[Path]) -> dict[str, Any]:
    from pvtctl.tasks.registry import task_spec, tasks_of_data

    row: dict[str, Any] = {"name": name, "where": None, "classes": None, "train": None, "val": None, "state": ""}
    place, row["where"], row["state"] = Path(), "built in", "rendered on the fly"
    if name != "scenes":
        try:
            found = next((place for place in places if place.is_dir()), None)
        except OSError as error:
            return row | {"where": None, "state": f"{error.filename} {reason_of(error)}"}
        if found is None:
            there = [said for place in places if (said := found_instead(place, "a folder"))]
            looked = f"not found: looked for {', '.join(str(place) for place in places)}"
            return row | {"where": None, "state": "; ".join(there) or looked}
        place, row["where"], row["state"] = found, str(found), "found"
    return row | task_spec(tasks_of_data(name)[0]).list_data(name, place)


def _print_verdict(verdict: DatasetVerdict) -> None:
    for each in verdict.tables():
        table("", each.columns, each.rows, caption=each.caption)
    for line in verdict.lines():
        print_text(line)
    for split, images in verdict.images.items():
        looked_at = verdict.examined[split]
        part = "" if looked_at == images else f", {looked_at} of them examined (--full for all)"
        print_text(f"{split}: {plural(images, 'image')}{part}")
    if verdict.classes:
        print_text(f"classes: {verdict.classes}")
    if verdict.problems:
        columns = ["severity", "what", "split", "count", "means", "for example"]
        rows = [[it.severity, it.kind, it.split, it.count, it.meaning, it.examples[0]] for it in verdict.problems]
        table("", columns, rows)
    words = {"ok": "ok: use it", "warnings": "usable: read the warnings", "unusable": "cannot be used"}
    print_text(f"verdict: {words[verdict.verdict]} (exit code {int(ExitCode(verdict.exit_code))})")
