"""`pvtctl latency`: time and memory of backbones, detectors, segmentation and depth models on this machine."""

from __future__ import annotations

import itertools
from enum import StrEnum
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
from pvtctl.cli._options import App
from pvtctl.errors import UsageError, nearest
from pvtctl.inference import EngineName
from pvtctl.io.console import say

if TYPE_CHECKING:
    from pvtctl.latency.measure import Latency

app = App()


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
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"batch size {text!r} is not a number of images", "write 8, or several as in 1,8")
    return [int(part) for part in parts]


def _engines(text: str, compile: bool) -> list[str]:
    """The engines of `--engine`, and of `--compile`."""
    named = [part.strip() for part in text.split(",")]
    for name in named:
        if name not in list(EngineName):
            raise UsageError(f"no engine {name!r}", nearest(name, list(EngineName)))
    return named if not compile else [EngineName.compile.value] if named == ["torch"] else [*named, "compile"]


@app.command(epilog="Example: pvtctl latency --backbone pvt_small,resnet50 --size 224 --batch-size 1,8 --seconds 5")
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
    threads: int | None = typer.Option(None, min=1, help="CPU threads. Default: torch's."),
    device: str = typer.Option("auto", help="cpu, cuda, cuda:1; auto uses a GPU if available."),
    warmup: int = typer.Option(3, min=0, help="Untimed calls after the first."),
    seconds: float = typer.Option(5.0, min=0.01, help="Timed seconds per case (and at least 7 calls)."),
    repeats: int | None = typer.Option(None, min=1, help="Timed calls per case, instead of --seconds."),
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

    from pvtctl.latency.measure import Case, measure_latency

    cases = [
        Case(
            name,
            hw,
            batch,
            model.head,
            mode.value,
            dtype.value,
            own,
            channels_last,
            model.num_classes,
            model.output_stride,
        )
        for hw, batch, name, own in itertools.product(sizes, batch_sizes, names, engines)
    ]
    results, machine = measure_latency(
        cases,
        device=timed_device(device),
        threads=threads,
        warmup=warmup,
        seconds=seconds,
        repeats=repeats,
        on_progress=say,
    )
    _print(results, machine, TableFormat.json if as_json else form)


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


def _print(results: list[Latency], machine: dict[str, Any], form: TableFormat) -> None:
    if form is TableFormat.json:
        print_json({"rows": [result.to_dict() for result in results], "machine": machine})
        return
    parts = list(results[0].parts_ms or {})
    engines = {result.case.engine for result in results}
    columns = ["backbone", "size", "batch", "p50 ms", "p90 ms", *(f"{name} ms" for name in parts)]
    columns += ["images/s", "peak MiB", "calls"]
    rows: list[list[Any]] = [
        [
            result.case.backbone if len(engines) == 1 else f"{result.case.backbone}, {result.case.engine}",
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
    print_rows(form, columns, rows, texts=2)
    _say_conditions(results, machine)


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
    say(
        f"{where}, {machine['threads']} threads of {machine['cpu_cores']} cores; peak: growth over the loaded libraries"
    )
    shares = [result.others_cpu_share for result in results if result.others_cpu_share is not None]
    if shares:
        note = ": times may be too long" if max(shares) > 0.05 else ""
        say(f"other processes used up to {max(shares):.1%} of this machine meanwhile{note}")
