"""`pvtctl export`: write models as files for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtctl.cli._console import parse_size, parse_sizes, print_json, table
from pvtctl.cli._heads import chosen_head, head_names
from pvtctl.errors import UsageError, nearest
from pvtctl.io.console import say

if TYPE_CHECKING:
    from pvtctl.export.layouts import LayoutReport
    from pvtctl.export.model import ExportReport
    from pvtctl.export.source import ExportSource

app = typer.Typer(add_completion=False, rich_markup_mode=None)

FORMATS = {"onnx": ".onnx", "torch": ".pt2", "official": ".pth", "transformers": ""}
"""Format -> file extension; transformers is a folder."""
EPILOG = """Examples:

pvtctl export runs/my-classifier --format onnx

pvtctl export runs/my-detector --format onnx --out detector.onnx --with-normalization uint8

pvtctl export segmenter.safetensors --format torch --size 512x512 --at-size

pvtctl export runs/my-classifier --format transformers --out my-pvt

pvtctl export --backbone pvt_v2_b0 --head none --format onnx
"""


class Normalization(StrEnum):
    """Input pixels of a graph with normalisation."""

    float = "float"
    uint8 = "uint8"


@app.command("export", epilog=EPILOG)
def export_command(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="Run directory, checkpoint file or published name.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="onnx; torch (a torch.export program); official (the checkpoint layout of the model's publisher); "
            "transformers (a folder for Hugging Face). Default: by the extension of --out, or onnx.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File, or folder for transformers. Default: named after SOURCE, in the working directory."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Without SOURCE: this backbone with random weights. With it: the backbone of SOURCE, if unknown."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help=f"Without SOURCE, the head: {', '.join(head_names())}. Default: classifier."),
    ] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Without SOURCE. dpt with it: segmentation.")] = None,
    backbone_only: Annotated[
        bool, typer.Option("--backbone-only", help="Export the backbone only: its four maps.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fix height and width. Default: dynamic if the model allows it.")
    ] = None,
    static: Annotated[bool, typer.Option("--static", help="Fix the batch size at 1 too.")] = False,
    at_size: Annotated[
        bool, typer.Option("--at-size", help="Segmentation, depth: resize the map to the images' size in the graph.")
    ] = False,
    with_normalization: Annotated[
        Normalization | None,
        typer.Option(help="Normalise in the graph, which then takes float (0 to 1) or uint8 pixels."),
    ] = None,
    check_sizes: Annotated[
        str | None, typer.Option(metavar="HxW,...", help="Compare with eager at these sizes. Default: three.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest accepted difference from eager, relative to an output's largest value.")
    ] = 1e-4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls each of eager, program, onnxruntime.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write a model as ONNX, as a torch.export program or as another project's checkpoint, checked against pvtctl's model."""
    chosen = _format(form, out)
    place = out if out is not None else Path(_stem(source, backbone, head) + FORMATS[chosen])
    if place.exists():
        raise UsageError(f"{place} exists", "name another --out; nothing is ever overwritten")
    _check_options(source, backbone, head, num_classes, size, static, at_size, with_normalization, check_sizes, chosen)
    if chosen == "onnx":
        from pvtctl.export.program import require_onnx

        require_onnx()
    found = _source(source, backbone, head, num_classes, backbone_only=backbone_only)
    say(f"exporting {found.what}")
    if chosen in ("official", "transformers"):
        _layout(found, place, chosen, tolerance, backbone_only=backbone_only, as_json=as_json)
        return
    from pvtctl.export.model import export_model

    report = export_model(
        found.model,
        place,
        format="onnx" if chosen == "onnx" else "torch",
        size=parse_size(size) if size else None,
        static=static,
        at_size=at_size,
        pixels=with_normalization.value if with_normalization else "normalized",
        mean=found.mean,
        std=found.std,
        meta=found.meta,
        default_size=found.size,
        check_sizes=parse_sizes(check_sizes) if check_sizes else None,
        tolerance=tolerance,
        repeats=repeats,
        on_progress=say,
    )
    if as_json:
        print_json({"model": found.what, **report.as_dict()})
    else:
        _show(report, found)


def _format(form: str | None, out: Path | None) -> str:
    if form is not None:
        if form not in FORMATS:
            raise UsageError(f"no format {form!r}", nearest(form, list(FORMATS)))
        return form
    if out is None:
        return "onnx"
    named = {".onnx": "onnx", ".pt2": "torch", ".pth": "official"}
    if out.suffix not in named:
        raise UsageError(f"{out} does not tell the format", f"--format {', '.join(FORMATS)}")
    return named[out.suffix]


def _stem(source: str | None, backbone: str | None, head: str | None) -> str:
    if source is None:
        name = "-".join(part for part in (backbone or "", head or "") if part and part != "none")
        return (name or "model").replace(":", "_").replace("/", "_")
    path = Path(source)
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):  # `best.safetensors` of a run is named after the run
        return path.stem if path.stem != "best" else path.resolve().parent.name
    return path.name or path.resolve().name


def _check_options(
    source: str | None,
    backbone: str | None,
    head: str | None,
    num_classes: int | None,
    size: str | None,
    static: bool,
    at_size: bool,
    with_normalization: Normalization | None,
    check_sizes: str | None,
    chosen: str,
) -> None:
    """Raise UsageError for options that exclude each other."""
    if source is None and backbone is None:
        raise UsageError("nothing to export", "name a run directory or checkpoint, or a --backbone for random weights")
    if source is not None and (head is not None or num_classes is not None):
        raise UsageError("--head and --num-classes are for random weights", f"{source} has its own: leave them out")
    if head is not None:
        chosen_head(head)
    if chosen in ("official", "transformers"):
        given = {"size": size, "static": static, "at-size": at_size, "with-normalization": with_normalization}
        given["check-sizes"] = check_sizes
        if unfit := next((name for name, value in given.items() if value), None):
            raise UsageError(f"--{unfit} is for graphs, and {chosen} is a checkpoint", "--format onnx or torch")
    if check_sizes and (size or static):
        raise UsageError("--check-sizes is for open sides", "leave --size and --static out, or --check-sizes")


def _source(
    source: str | None, backbone: str | None, head: str | None, num_classes: int | None, *, backbone_only: bool
) -> ExportSource:
    from pvtctl.export.source import from_checkpoint, from_names

    if source is not None:
        return from_checkpoint(source, backbone=backbone, backbone_only=backbone_only)
    assert backbone is not None
    say("no SOURCE: the weights are random")
    return from_names(backbone, "none" if backbone_only else head or "classifier", num_classes)


def _layout(
    found: ExportSource, place: Path, chosen: str, tolerance: float, *, backbone_only: bool, as_json: bool
) -> None:
    from pvtctl.export.layouts import export_layout

    report = export_layout(
        found.model,
        place,
        "official" if chosen == "official" else "transformers",
        source=None if backbone_only else found.path,
        class_names=found.class_names,
        mean=found.mean,
        std=found.std,
        tolerance=tolerance,
    )
    if as_json:
        print_json(report.as_dict())
    else:
        _show_layout(report)


def _show_layout(report: LayoutReport) -> None:
    say(f"wrote {report.model} in the {report.layout} layout; read back, its tensors are equal to the bit")
    if report.compared_with is not None:
        say(f"outputs equal those of {report.compared_with}: largest difference {report.difference:.1e} of the largest")
    print(report.path)


def _show(report: ExportReport, found: ExportSource) -> None:
    timing = report.timing
    names = {"eager": "eager", "program": "torch.export", "onnxruntime": "onnxruntime"}
    rows: list[list[Any]] = [
        [names[name], f"{value:.2f}", f"{timing.ratio(name):.2f}"] for name, value in timing.milliseconds.items()
    ]
    checks: list[list[Any]] = []
    for case in dict.fromkeys((check.batch, check.size) for check in report.checks):
        own = [check for check in report.checks if (check.batch, check.size) == case]
        worst = max(own, key=lambda check: check.relative)
        checks.append(
            [
                case[0],
                f"{case[1][0]}x{case[1][1]}",
                f"{max(c.absolute for c in own):.1e}",
                f"{worst.relative:.1e}",
                worst.output,
            ]
        )
    columns = ["batch", "size", "largest difference", "share of the largest", "in"]
    table(f"Against eager (tolerance {report.tolerance:g} of an output's largest value)", columns, checks)
    height, width = timing.size
    title = f"Batch {timing.batch} at {height}x{width}, {timing.threads} threads, median of {timing.repeats} in turns"
    table(title, ["", "ms", "to eager"], rows)
    kind = f"ONNX, opset {report.opset}" if report.opset else "torch.export program"
    say(f"{kind}, {report.bytes / 1e6:.1f} MB: {found.what}; outputs {_names(report.outputs)}")
    pixels = {"normalized": "normalised images (see the file's metadata)", "float": "pixels from 0 to 1"}
    say(f"takes {pixels.get(report.inputs, 'uint8 pixels')}; open: {', '.join(report.dynamic) or 'nothing'}")
    if report.least:
        say("smallest sides: " + ", ".join(f"{name} {side}" for name, side in report.least.items()))
    for name, why in report.fixed.items():
        say(f"{name} is fixed at {why}")
    print(report.path)


def _names(outputs: tuple[str, ...]) -> str:
    return ", ".join(outputs) if len(outputs) <= 4 else f"{outputs[0]} ... {outputs[-1]} ({len(outputs)})"
