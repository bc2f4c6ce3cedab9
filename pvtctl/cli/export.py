"""`pvtctl export`: write models as files for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import parse_size, parse_sizes, print_json, print_text, table
from pvtctl.cli._models import chosen_head, size_text
from pvtctl.cli._options import AS_JSON, INSIDE, App, argument, bundle, examples, option, shared
from pvtctl.errors import UsageError, nearest
from pvtctl.io.console import say
from pvtctl.io.names import plural
from pvtctl.models.registry import head_names
from pvtctl.weights.resolve import split_inside

if TYPE_CHECKING:
    from pvtctl.export.model import ExportReport
    from pvtctl.export.source import ExportSource

app = App(rich_markup_mode=None)

FORMATS = {"onnx": ".onnx", "torch": ".pt2", "official": ".pth", "transformers": ""}
"""Format -> file extension; transformers is a folder."""
EPILOG = examples(
    "pvtctl export runs/my-classifier --format onnx",
    "pvtctl export runs/my-detector --format onnx --out detector.onnx --with-normalization uint8",
    "pvtctl export segmenter.safetensors --format torch --size 512x512 --at-size",
    "pvtctl export runs/my-classifier --format transformers --out my-pvt",
    "pvtctl export --backbone pvt_v2_b0 --head none --format onnx",
)


class GraphPixels(StrEnum):
    """Input pixels of a graph with normalisation."""

    float = "float"
    uint8 = "uint8"


@bundle
class ExportOptions:
    """Options of `pvtctl export`."""

    source: str | None = argument(
        default=None,
        metavar="[SOURCE]",
        help="Run directory, checkpoint file, published name, hf:OWNER/NAME or timm:NAME.TAG.",
    )
    inside: str | None = shared(INSIDE)
    form: str | None = option(
        "--format",
        help="onnx; torch (a torch.export program); official (the checkpoint layout of the model's publisher); "
        "transformers (a folder for Hugging Face). Default: by the extension of --out, or onnx.",
    )
    out: Path | None = option(
        help="File, or folder for transformers. Default: named after SOURCE, in the working directory."
    )
    backbone: str | None = option(
        help="Without SOURCE: this backbone with random weights. With it: the backbone of SOURCE, if unknown."
    )
    head: str | None = option(help=f"Without SOURCE, the head: {', '.join(head_names())}. Default: classifier.")
    num_classes: int | None = option(min=1, help="Without SOURCE. dpt with it: segmentation.")
    backbone_only: bool = option("--backbone-only", default=False, help="Export the backbone only: its four maps.")
    size: tuple[int, int] | None = option(
        parse=parse_size, metavar="HxW", help="Fix height and width. Default: dynamic if the model allows it."
    )
    static: bool = option("--static", default=False, help="Fix the batch size at 1 too.")
    at_size: bool = option(
        "--at-size", default=False, help="Segmentation, depth: resize the map to the images' size in the graph."
    )
    with_normalization: GraphPixels | None = option(
        help="Normalise in the graph, which then takes float (0 to 1) or uint8 pixels."
    )
    check_sizes: list[tuple[int, int]] | None = option(
        parse=parse_sizes, metavar="HxW,...", help="Compare with eager at these sizes. Default: three."
    )
    tolerance: float = option(
        default=1e-4, help="Largest accepted difference from eager, relative to an output's largest value."
    )
    repeats: int = option(default=10, min=1, help="Timed calls each of eager, program, onnxruntime.")
    as_json: bool = shared(AS_JSON)


@app.command("export", epilog=EPILOG)
def export_command(*, options: ExportOptions) -> None:
    """Write a model as ONNX, as a torch.export program or as another project's checkpoint, checked against pvtctl's model."""
    chosen = _format(options.form, options.out)
    place = options.out or Path(_stem(options) + FORMATS[chosen])
    if place.exists():
        raise UsageError(f"{place} exists", "name another --out; nothing is ever overwritten")
    _check_options(options, chosen)
    if chosen == "onnx":
        from pvtctl.export.program import require_onnx

        require_onnx()
    found = _source(options)
    say(f"exporting {found.what}")
    if chosen in ("official", "transformers"):
        from pvtctl.export.layouts import export_layout

        copied = export_layout(
            found.model,
            place,
            "official" if chosen == "official" else "transformers",
            source=None if options.backbone_only else found.path,
            class_names=found.class_names,
            normalization=found.normalization,
            tolerance=options.tolerance,
            sides=found.sides,
        )
        if options.as_json:
            print_json(copied.as_dict())
        else:
            say(f"wrote {copied.model} in the {copied.layout} layout; read back, its tensors are equal to the bit")
            if copied.compared_with is not None:
                what = f"largest difference {copied.difference:.1e} of the largest"
                say(f"outputs equal those of {copied.compared_with}: {what}")
            print_text(copied.path)
        return
    from pvtctl.export.model import export_model

    report = export_model(
        found.model,
        place,
        format="onnx" if chosen == "onnx" else "torch",
        size=options.size,
        static=options.static,
        at_size=options.at_size,
        pixels=options.with_normalization.value if options.with_normalization else "normalized",
        normalization=found.normalization,
        meta=found.meta,
        default_size=found.size,
        check_sizes=options.check_sizes,
        tolerance=options.tolerance,
        repeats=options.repeats,
        on_progress=say,
    )
    if options.as_json:
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


def _stem(options: ExportOptions) -> str:
    if options.source is None:
        name = "-".join(part for part in (options.backbone, options.head) if part and part != "none")
        return (name or "model").replace(":", "_").replace("/", "_")
    path = Path(split_inside(options.source)[0])
    if path.suffix in (".safetensors", ".pth", ".pt", ".bin"):  # `best.safetensors` of a run is named after the run
        return path.stem if path.stem != "best" else path.resolve().parent.name
    return path.name or path.resolve().name


def _check_options(options: ExportOptions, chosen: str) -> None:
    """Raise UsageError for options that exclude each other."""
    source = options.source
    if source is None and options.backbone is None:
        raise UsageError("nothing to export", "name a run directory or checkpoint, or a --backbone for random weights")
    if source is not None and (options.head is not None or options.num_classes is not None):
        raise UsageError("--head and --num-classes are for random weights", f"{source} has its own: leave them out")
    if options.head is not None:
        chosen_head(options.head)
    if chosen in ("official", "transformers"):
        for name in ("size", "static", "at_size", "with_normalization", "check_sizes"):
            if getattr(options, name):
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is for graphs, and {chosen} is a checkpoint", "--format onnx or torch")
    if options.check_sizes and (options.size or options.static):
        raise UsageError("--check-sizes is for open sides", "leave --size and --static out, or --check-sizes")


def _source(options: ExportOptions) -> ExportSource:
    from pvtctl.export.source import from_checkpoint, from_names

    if options.source is not None:
        return from_checkpoint(options.source, backbone=options.backbone, backbone_only=options.backbone_only)
    assert options.backbone is not None
    say("no SOURCE: the weights are random")
    head = "none" if options.backbone_only else options.head or "classifier"
    return from_names(options.backbone, head, options.num_classes)


def _show(report: ExportReport, found: ExportSource) -> None:
    timing = report.timing
    names = {"eager": "eager", "program": "torch.export", "onnxruntime": "onnxruntime"}
    rows = [[names[name], f"{value:.2f}", f"{timing.ratio(name):.2f}"] for name, value in timing.milliseconds.items()]
    checks: list[list[Any]] = []
    for batch, size in dict.fromkeys((check.batch, check.size) for check in report.checks):
        own = [check for check in report.checks if (check.batch, check.size) == (batch, size)]
        worst = max(own, key=lambda check: check.relative)
        largest = max(check.absolute for check in own)
        checks.append([batch, size_text(size), f"{largest:.1e}", f"{worst.relative:.1e}", worst.output])
    columns = ["batch", "size", "largest difference", "share of the largest", "in"]
    table(f"Against eager (tolerance {report.tolerance:g} of an output's largest value)", columns, checks)
    how = f"{plural(timing.threads, 'thread')}, median of {timing.repeats} in turns"
    title = f"Batch {timing.batch} at {size_text(timing.size)}, {how}"
    table(title, ["", "ms", "to eager"], rows)
    outputs = ", ".join(report.outputs)
    if len(report.outputs) > 4:
        outputs = f"{report.outputs[0]} ... {report.outputs[-1]} ({len(report.outputs)})"
    kind = f"ONNX, opset {report.opset}" if report.opset else "torch.export program"
    say(f"{kind}, {report.bytes / 1e6:.1f} MB: {found.what}; outputs {outputs}")
    pixels = {"normalized": "normalised images (see the file's metadata)", "float": "pixels from 0 to 1"}
    say(f"takes {pixels.get(report.inputs, 'uint8 pixels')}; open: {', '.join(report.dynamic) or 'nothing'}")
    if report.least:
        say("smallest sides: " + ", ".join(f"{name} {side}" for name, side in report.least.items()))
    for name, why in report.fixed.items():
        say(f"{name} is fixed at {why}")
    print_text(report.path)
