"""`pvtctl latency`: time and memory of backbones, detectors, segmentation and depth models on this machine."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pvtctl.cli._console import print_json
from pvtctl.cli._models import (
    FORMAT,
    JSON_FORMAT,
    ModelOptions,
    TableFormat,
    chosen_head,
    print_rows,
    size_text,
)
from pvtctl.cli._options import App, bundle, examples, option
from pvtctl.errors import UsageError, nearest
from pvtctl.inference import EngineName
from pvtctl.io.console import say
from pvtctl.io.files import require_picture
from pvtctl.io.names import plural

if TYPE_CHECKING:
    from pvtctl.latency.ceilings import Ceilings
    from pvtctl.latency.layers import TimedLayer
    from pvtctl.latency.measure import Latency

app = App()

SMALL = 0.005
"""Share of the time below which a part has no row of its own."""


class Mode(StrEnum):
    """What is timed."""

    forward = "forward"
    train = "train"


class Dtype(StrEnum):
    """Number format of the arithmetic; bf16 and fp16 run under autocast, tf32 is for NVIDIA GPUs."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


def _batch_sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) < 10**9 for part in parts):
        raise UsageError(f"batch size {text!r} is not a number of images", "write 8, or several as in 1,8")
    return [int(part) for part in parts]


def _engines(text: str, compile: bool) -> list[str]:
    """The engines of `--engine`, and of `--compile`."""
    named = [part.strip() for part in text.split(",")]
    for name in named:
        if name not in list(EngineName):
            raise UsageError(f"no engine {name!r}", nearest(name, list(EngineName)))
    return named if not compile else [EngineName.compile.value] if named == ["torch"] else [*named, "compile"]


@bundle
class ViewOptions:
    """Options for the parts of a model, and for pictures."""

    layers: bool = option(
        "--layers", default=False, help="Time each part of the model, next to the limits of this machine."
    )
    depth: int | None = option(
        min=1, help="Parts: modules of so many names; 1 is backbone, neck, head. Default: down to attention and MLP."
    )
    plot: Path | None = option(
        help="Also draw into this .png or .svg file: time and memory against size or batch size, or with --layers a roofline."
    )

    def check(self, sizes: int, batch_sizes: int, backbones: int) -> None:
        """Raises UsageError for options that cannot be combined."""
        if self.depth and not self.layers:
            raise UsageError("--depth is for the parts of a model", "add --layers")
        if self.plot is None:
            return
        require_picture(self.plot, (".png", ".svg"), "--plot")
        if self.layers and sizes * batch_sizes * backbones > 1:
            raise UsageError("a roofline is of one model", "with --plot name one backbone, one size and one batch size")
        if not self.layers and sizes * batch_sizes == 1:
            raise UsageError(
                "one size and one batch size make no curve", "name several, or add --layers for a roofline"
            )


@app.command(
    epilog=examples(
        "pvtctl latency --backbone pvt_small,resnet50 --size 224 --batch-size 1,8 --seconds 5",
        "pvtctl latency --backbone pvt_small --size 224,448,896,1600 --plot growth.png",
        "pvtctl latency --backbone pvt_small --layers --plot roofline.png",
    )
)
def latency(
    *,
    model: ModelOptions,
    batch_size: str = typer.Option("1", help="Images per call, or several numbers: 1,8."),
    mode: Mode = typer.Option(Mode.forward, help="forward, or train: forward, backward and an AdamW step."),
    dtype: Dtype = typer.Option(Dtype.fp32, help="fp32, tf32 on a GPU, or bf16 and fp16 under autocast."),
    engine: str = typer.Option(
        "torch", help="What computes the network: torch, compile, onnxruntime, or several: torch,onnxruntime."
    ),
    compile: bool = typer.Option(False, "--compile", help="The same as --engine compile; compiling is not timed."),
    channels_last: bool = typer.Option(False, "--channels-last", help="Images in channels-last layout."),
    threads: int | None = typer.Option(None, min=1, max=4096, help="CPU threads. Default: torch's."),
    device: str = typer.Option("auto", help="cpu, cuda, cuda:1; auto uses a GPU if available."),
    warmup: int = typer.Option(3, min=0, help="Untimed calls after the first."),
    seconds: float = typer.Option(5.0, min=0.01, help="Timed seconds per case (and at least 7 calls)."),
    repeats: int | None = typer.Option(None, min=1, help="Timed calls per case, instead of --seconds."),
    view: ViewOptions,
    form: TableFormat = FORMAT,
    as_json: bool = JSON_FORMAT,
) -> None:
    """Time backbones, or models with a head, in turns, each in a separate process, with random weights.

    Models with a head are timed from photo to result.
    """
    sizes, batch_sizes, names = model.sizes, _batch_sizes(batch_size), model.names
    engines = _engines(engine, compile)
    if EngineName.compile in engines and mode is Mode.train and model.spec is not None and model.spec.detects:
        raise UsageError(
            "training detectors is not compiled: it depends on the ground truth of each image", "--head none --compile"
        )
    view.check(len(sizes), len(batch_sizes), len(names))

    from pvtctl.latency.ceilings import measure_ceilings
    from pvtctl.latency.measure import Case, measure_latency

    shared: dict[str, Any] = {"head": model.head, "mode": mode.value, "dtype": dtype.value}
    shared |= {"channels_last": channels_last, "num_classes": model.num_classes, "output_stride": model.output_stride}
    cases = [
        Case(name, hw, batch, engine=own, **shared)
        for hw, batch, name, own in itertools.product(sizes, batch_sizes, names, engines)
    ]
    device = timed_device(device)
    results, machine = measure_latency(
        cases,
        device=device,
        threads=threads,
        warmup=warmup,
        seconds=seconds,
        repeats=repeats,
        layers=(view.depth or 0) if view.layers else None,
        on_progress=say,
    )
    limited = view.layers or view.plot is not None
    ceilings = measure_ceilings(device, dtype.value, threads=threads) if limited else None
    _print(results, machine, TableFormat.json if as_json else form, ceilings)
    if view.plot is not None and ceilings is not None:
        (_draw_roofline if view.layers else _draw_growth)(results, ceilings, view.plot)
        say(f"drew {view.plot}")


def timed_device(text: str) -> str:
    """Resolve `--device`, including `auto`. Raises UsageError if this machine does not have it."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"no device {text!r}", "cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {text!r} cannot be timed", "cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"this machine has no {text}", "pvtctl doctor lists its devices; --device cpu works anywhere")
    return text


def _print(
    results: list[Latency], machine: dict[str, Any], form: TableFormat, ceilings: Ceilings | None = None
) -> None:
    """`ceilings`: with layers, or where computed limits are printed next to the measured numbers."""
    if form is TableFormat.json:
        rows = [result.to_dict() | _computed_row(result, ceilings) for result in results]
        limits = {} if ceilings is None else {"ceilings": asdict(ceilings)}
        print_json({"rows": rows, "machine": machine, **limits})
        return
    if ceilings is not None and results[0].layers is not None:
        _print_layers(results, form, ceilings)
    else:
        _print_calls(results, form, ceilings)
    _say_conditions(results, machine)


def _computed_row(result: Latency, ceilings: Ceilings | None) -> dict[str, Any]:
    if ceilings is None or result.layers is not None:
        return {}
    from pvtctl.latency.growth import compute

    return {"computed": asdict(compute(result.case, ceilings))}


def _print_calls(results: list[Latency], form: TableFormat, ceilings: Ceilings | None) -> None:
    parts = list(results[0].parts_ms or {})
    columns = ["backbone", "size", "batch", "p50 ms", "p90 ms", *(f"{name} ms" for name in parts)]
    columns += ["images/s", "peak MiB", "calls"]
    rows: list[list[Any]] = [
        [
            _label(result, results),
            size_text(result.case.size),
            result.case.batch_size,
            f"{result.p50_ms:.2f}",
            f"{result.p90_ms:.2f}",
            *(f"{(result.parts_ms or {})[name]:.2f}" for name in parts),
            f"{result.images_per_second:.2f}",
            f"{result.peak_memory_bytes / 2**20:.0f}",
            result.calls,
        ]
        for result in results
    ]
    if ceilings is not None:
        columns += ["GMACs", "limit ms", "computed MiB"]
        for row, result in zip(rows, results, strict=True):
            computed = _computed_row(result, ceilings)["computed"]
            row += [
                f"{computed['gmacs']:.3f}",
                f"{computed['limit_ms']:.2f}",
                f"{computed['memory_bytes'] / 2**20:.0f}",
            ]
    print_rows(form, columns, rows, texts=2)


def _label(result: Latency, results: list[Latency]) -> str:
    """The backbone's name, with the engine where the results have several."""
    several = len({each.case.engine for each in results}) > 1
    return f"{result.case.backbone}, {result.case.engine}" if several else result.case.backbone


def _print_layers(results: list[Latency], form: TableFormat, ceilings: Ceilings) -> None:
    """A table for each case; parts of less than SMALL of the time are one row in all formats but CSV."""
    columns = ["part", "runs", "p50 ms", "p10-p90", "of time", "GMACs", "MB", "GMAC/s", "GB/s"]
    columns += ["of products", "of memory", "above limit ms"]
    for result in results:
        layers = result.layers or ()
        total = sum(layer.p50_ms for layer in layers)
        shown = [layer for layer in layers if form is TableFormat.csv or layer.p50_ms >= SMALL * total]
        few = [layer for layer in layers if layer not in shown]
        rows = [_layer_row(layer, total, ceilings) for layer in shown]
        if few:
            spent = sum(layer.p50_ms for layer in few)
            rows.append([f"{len(few)} smaller ones", "", f"{spent:.2f}", "", f"{spent / total:.1%}", *[""] * 7])
        print_rows(form, columns, rows, texts=1)
        limit = sum(layer.limit_ms(ceilings) for layer in layers)
        say(
            f"{result.case}: {total:.2f} ms in all parts, {limit:.2f} at the limits; {result.p50_ms:.2f} (p50) without "
            f"hooks, {total / result.p50_ms - 1:+.1%} with; peak {result.peak_memory_bytes / 2**20:.0f} MiB"
        )
    say(
        f"limits: {ceilings.macs_per_second / 1e9:.4g} GMAC/s (product of square matrices), "
        f"{ceilings.bytes_per_second / 1e9:.3g} GB/s (copy that fits no cache; parts whose data stay in a cache exceed it)"
    )


def _layer_row(layer: TimedLayer, total: float, ceilings: Ceilings) -> list[Any]:
    return [
        f"{layer.name}, rest" if layer.rest else layer.name,
        layer.calls,
        f"{layer.p50_ms:.2f}",
        f"{layer.p10_ms:.2f}-{layer.p90_ms:.2f}",
        f"{layer.p50_ms / total:.1%}",
        f"{layer.macs / 1e9:.3f}",
        f"{layer.bytes / 1e6:.2f}",
        f"{layer.macs_per_second / 1e9:.2f}",
        f"{layer.bytes_per_second / 1e9:.2f}",
        f"{layer.macs_per_second / ceilings.macs_per_second:.0%}",
        f"{layer.bytes_per_second / ceilings.bytes_per_second:.0%}",
        f"{max(0.0, layer.p50_ms - layer.limit_ms(ceilings)):.2f}",
    ]


def _draw_roofline(results: list[Latency], ceilings: Ceilings, path: Path) -> None:
    from pvtctl.views.roofline import RooflinePart, draw_roofline

    (result,) = results
    total = sum(layer.p50_ms for layer in result.layers or ())
    parts = [
        RooflinePart(
            f"{layer.name}.rest" if layer.rest else layer.name,
            layer.p50_ms / total,
            layer.macs_per_second,
            layer.bytes_per_second,
        )
        for layer in result.layers or ()
    ]
    title = f"{result.case}, head {result.case.head}, {result.case.dtype}: {total:.4g} ms"
    draw_roofline(path, parts, ceilings.macs_per_second, ceilings.bytes_per_second, title=title)


def _draw_growth(results: list[Latency], ceilings: Ceilings, path: Path) -> None:
    """Curves over the size, one for each backbone and batch size; over the batch size where there is one size only."""
    from pvtctl.latency.growth import compute
    from pvtctl.views.curves import CurvePanel, Series, draw_panels

    over_sizes = len({result.case.size for result in results}) > 1
    several = over_sizes and len({result.case.batch_size for result in results}) > 1
    lines: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        case, computed = result.case, compute(result.case, ceilings)
        x = math.sqrt(math.prod(case.size)) if over_sizes else case.batch_size
        name = _label(result, results) + (f", batch {case.batch_size}" if several else "")
        figures = (x, result.p50_ms, computed.limit_ms, result.peak_memory_bytes / 2**20, computed.memory_bytes / 2**20)
        lines.setdefault(name, []).append(figures)
    time, memory = [], []
    for name, rows in lines.items():
        xs, spent, limit, peak, least = zip(*sorted(rows), strict=True)
        time += [Series(name, xs, spent), Series(f"{name}, computed", xs, limit)]
        memory += [Series(name, xs, peak), Series(f"{name}, computed", xs, least)]
    panels = [
        CurvePanel("Time", "ms a call", time, logarithmic=True),
        CurvePanel("Peak memory", "MiB", memory, logarithmic=True),
    ]
    case = results[0].case
    title = f"{case.mode}, head {case.head}, {case.dtype}"
    draw_panels(path, panels, "input scale, pixels" if over_sizes else "images a call", title=title)


def _say_conditions(results: list[Latency], machine: dict[str, Any]) -> None:
    case = results[0].case
    engines = list(dict.fromkeys(result.case.engine for result in results))
    how = [case.mode, case.dtype, f"by {' and '.join(engines)}", f"head {case.head}"]
    how += ["channels last"] if case.channels_last else []
    spec = chosen_head(case.head)
    if spec is not None and case.mode == "forward":
        from pvtctl.latency.prediction_steps import CANDIDATES, PHOTO

        some = f"{spec.candidates or f'{CANDIDATES} candidates an image for NMS'}; " if spec.detects else ""
        say(f"photos of {PHOTO[0]}x{PHOTO[1]} in memory, resized; {some}p50 and p90 are all three parts together")
    where = machine.get("gpu") or f"{machine['cpu']} ({machine['cpu_capability']})"
    versions = [f"{name} {machine[name]}" for name in ("torch", "onnxruntime") if name in machine]
    say(f"{', '.join([*how, *versions])}; allocator {machine['allocator']}")
    if "gpu" not in machine and EngineName.torch in engines:
        say(f"CPU kernels: {machine['kernels']}")
    cores = f"{plural(machine['threads'], 'thread')} of {plural(machine['cpu_cores'], 'core')}"
    say(f"{where}, {cores}; peak: growth over the loaded libraries")
    shares = [result.others_cpu_share for result in results if result.others_cpu_share is not None]
    if shares:
        note = ": times may be too long" if max(shares) > 0.05 else ""
        say(f"other processes used up to {max(shares):.1%} of this machine meanwhile{note}")
