"""Export a pvtctl model as a `torch.export` program or ONNX file, checked and timed before it gets its name."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pvtctl import __version__
from pvtctl.errors import UsageError
from pvtctl.export.check import TOLERANCE, Check, ExportTiming, Run, compare_outputs, time_in_turns
from pvtctl.export.exportable import Pixels, RawModel, raw_model
from pvtctl.export.program import OPSET, OnnxModel, Program, example, export_program, quiet, require_onnx, write_onnx
from pvtctl.io.files import atomic_path
from pvtctl.io.normalization import IMAGENET, Normalization
from pvtctl.models.backbones import Backbone, Classifier
from pvtctl.models.backbones.base import in_eval
from pvtctl.models.dense import DenseModel
from pvtctl.models.detector import Detector
from pvtctl.models.fast_cpu import plain_kernels
from pvtctl.models.structures import ImageSize
from pvtctl.models.variants import MIN_SIDE

Format = Literal["torch", "onnx"]
SUFFIXES: dict[str, Format] = {".pt2": "torch", ".onnx": "onnx"}


@dataclass(frozen=True)
class ExportReport:
    """Result of `export_model`: file, numerical difference from eager, timings."""

    path: Path
    format: Format
    opset: int | None
    """Of ONNX; None for programs."""
    bytes: int
    inputs: str
    """Input of the graph: `normalized`, `float` or `uint8` pixels."""
    outputs: tuple[str, ...]
    dynamic: list[str]
    """Which of batch, height and width are dynamic."""
    fixed: dict[str, str]
    """The others: value and reason."""
    least: dict[str, int]
    """The smallest dynamic height and width of a program; an ONNX file takes smaller ones."""
    tolerance: float
    checks: list[Check]
    timing: ExportTiming

    @property
    def largest_difference(self) -> float:
        """Of all checks, relative to the output's largest value."""
        return max(check.relative for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        plain = {
            name: getattr(self, name) for name in ("format", "opset", "bytes", "inputs", "dynamic", "fixed", "least")
        }
        return plain | {
            "path": str(self.path),
            "outputs": list(self.outputs),
            "tolerance": self.tolerance,
            "largest_difference": self.largest_difference,
            "checks": [asdict(check) for check in self.checks],
            "timing": asdict(self.timing),
        }


def export_model(
    model: nn.Module,
    path: Path | str,
    *,
    format: Format | None = None,
    size: ImageSize | None = None,
    static: bool = False,
    at_size: bool = False,
    pixels: Pixels = "normalized",
    normalization: Normalization = IMAGENET,
    meta: Mapping[str, Any] | None = None,
    default_size: ImageSize | None = None,
    check_sizes: Sequence[ImageSize] | None = None,
    tolerance: float = TOLERANCE,
    repeats: int = 10,
    on_progress: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Write a Classifier, Backbone, Detector (RetinaNet, DETR) or DenseModel as a program (.pt2) or ONNX file (.onnx).

    The graph takes `images` (batch, 3, height, width), float32, and gives the outputs of `pvtctl.export.exportable`:
    logits, maps, or a detector's outputs before post-processing. `pixels`: its input; `float` (0 to 1) and `uint8` put
    `normalization` into the graph. `at_size` resizes a segmentation or depth map to the images' size. Batch, height and
    width are dynamic where the model permits; `size` (height, width) fixes the sides, `static` them and a batch of 1.

    The file's outputs are compared with eager at `check_sizes` (unset: three around `default_size`, one not square, one
    of odd sides), batches of 1 and 2; then eager, program and onnxruntime are timed in turns, `repeats` calls each, at the
    first of them. Only a file that passes gets its name. `meta` is added to the file's metadata.

    Raises UsageError for a path that exists or ends in neither .pt2 nor .onnx, a model that cannot be exported or is on a
    GPU, sides below 32, a missing extra; PvtctlError when an output differs by more than `tolerance` of its largest value.
    """
    path = Path(path)
    chosen = _format(path, format)
    if chosen == "onnx":
        require_onnx()
    if path.exists():
        raise UsageError(f"{path} exists", "name another file; nothing is ever overwritten")
    for each in [*([size] if size else []), *(check_sizes or [])]:
        if min(each) < MIN_SIDE:
            raise UsageError(
                f"images of {each[0]}x{each[1]} are too small", f"both sides must be at least {MIN_SIDE} pixels"
            )
    if not tolerance > 0 or not math.isfinite(tolerance):
        raise UsageError(f"a tolerance of {tolerance:g} lets nothing pass", f"it lies above 0, mostly {TOLERANCE:g}")
    if repeats < 1:
        raise UsageError(f"{repeats} timed calls say nothing", "at least 1")
    if any(parameter.device.type == "cuda" for parameter in model.parameters()):
        raise UsageError("the model is on a GPU: graphs are traced, checked and timed on the CPU", "model.cpu() first")
    default_size = default_size or default_size_of(model)
    with in_eval(model):
        raw = raw_model(model, pixels=pixels, normalization=normalization, at_size=at_size).eval()
        on_progress("tracing with torch.export")
        with plain_kernels(raw):
            program = export_program(raw, size=size, default_size=default_size, static=static)
        said = _meta(raw, normalization, program, at_size, meta or {})
        cases = _cases(raw, program, size or default_size, check_sizes)
        with atomic_path(path) as temporary:
            runs = _write(raw, program, temporary, chosen, said, on_progress)
            shapes = ", ".join(f"{batch}x3x{height}x{width}" for batch, (height, width) in cases)
            on_progress(f"comparing with eager at {shapes}")
            checks = compare_outputs(raw, list(runs.values())[-1], cases, tolerance)
            on_progress("timing")
            timing = time_in_turns(raw, runs, *cases[0], repeats)
    return ExportReport(
        path=path,
        format=chosen,
        opset=OPSET if chosen == "onnx" else None,
        bytes=path.stat().st_size,
        inputs=pixels,
        outputs=raw.names,
        dynamic=program.dynamic,
        fixed=program.fixed,
        least=program.least if chosen == "torch" else {},
        tolerance=tolerance,
        checks=checks,
        timing=timing,
    )


def default_size_of(model: nn.Module) -> ImageSize:
    """The papers' test size: 224 for classifiers and backbones, 384 for depth, 512 for segmentation and detectors."""
    match model:
        case DenseModel(gives_depth=True):
            side = 384
        case DenseModel() | Detector():
            side = 512
        case _:
            side = 224
    return side, side


def _format(path: Path, format: Format | None) -> Format:
    suffixes = " or ".join(SUFFIXES)
    found = SUFFIXES.get(path.suffix.lower())
    if format is not None and format not in SUFFIXES.values():
        raise UsageError(f"no format {format!r}", f"one of: {', '.join(SUFFIXES.values())}")
    if found is None or (format is not None and found != format):
        wanted = next((suffix for suffix, each in SUFFIXES.items() if each == format), suffixes)
        raise UsageError(f"{path} has not the ending of {format or 'an exported model'}", f"end it in {wanted}")
    return found


def _cases(
    raw: RawModel, program: Program, size: ImageSize, check_sizes: Sequence[ImageSize] | None
) -> list[tuple[int, ImageSize]]:
    """(batch, size) of the comparisons."""
    batches = [1] if "batch" in program.fixed else [1, 2]
    if "height" in program.fixed:
        height, width = (int(program.fixed[side].split(",")[0]) for side in ("height", "width"))
        return [(batch, (height, width)) for batch in batches]
    height, width = size
    least = max(64, *program.least.values())
    other = [(height * 3 // 4 // 32 * 32, width), (height // 2 + 5, width // 2 - 9)]
    if check_sizes:
        sizes = list(check_sizes)
    else:
        sizes = [_taken(raw, (max(h, least), max(w, least))) for h, w in (size, *other)]
    return [(batches[at % len(batches)], each) for at, each in enumerate(sizes)]


def _taken(raw: RawModel, size: ImageSize) -> ImageSize:
    """`size`, or if the model refuses it (timm's ViTs take whole patches only), the next multiples of 32."""
    try:
        raw.eager(example(raw, 1, size))
    except UsageError:
        return -(-size[0] // 32) * 32, -(-size[1] // 32) * 32
    return size


def _meta(
    raw: RawModel, normalization: Normalization, program: Program, at_size: bool, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The file's metadata."""
    model = raw.model
    said: dict[str, Any] = {
        "pvtctl_version": __version__,
        "input": "images",
        "pixels": raw.pixels,
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "channel_order": normalization.order,
        "outputs": list(raw.names),
        "dynamic": program.dynamic,
        "fixed": program.fixed,
    }
    match model:
        case Classifier():
            said |= {"task": "classification", "num_classes": model.num_classes}
        case Detector():
            said |= {"task": "detection", "num_classes": model.num_classes, "conventions": model.conventions}
        case DenseModel():
            said |= {"task": model.task, "num_classes": model.num_classes, "at_size": at_size}
            said |= {"align_corners": model.head.align_corners, "multiple": model.head.multiple}
            said |= {"scale_shift": list(model.scale_shift)} if model.scale_shift else {}
        case _:
            assert isinstance(model, Backbone)
            said |= {"feature_channels": list(model.feature_channels)}
    return {**said, **more}


def _write(
    raw: RawModel,
    program: Program,
    path: Path,
    format: Format,
    meta: Mapping[str, Any],
    on_progress: Callable[[str], None],
) -> dict[str, Run]:
    """Write the file; returns functions that run the program and, last, the file."""
    if format == "torch":
        path.write_bytes(program.to_bytes(meta))
        with quiet():
            return {"program": _run_of(torch.export.load(io.BytesIO(path.read_bytes())))}
    on_progress("writing ONNX")
    props = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
    write_onnx(raw, program, path, props)
    return {"program": _run_of(program.program), "onnxruntime": OnnxModel(path)}


def _run_of(program: ExportedProgram) -> Run:
    with quiet():
        module = program.module()

    def run(images: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return tuple(module(images))

    return run
