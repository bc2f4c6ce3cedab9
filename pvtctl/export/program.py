"""Trace a model into a `torch.export` program, with open sides where possible; write it as ONNX, and run the ONNX file."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.export.exportable import RawModel
from pvtctl.models.backbones import VitHybrid
from pvtctl.models.structures import ImageSize
from pvtctl.models.variants import MIN_SIDE

AXES = {0: "batch", 2: "height", 3: "width"}
META_FILE = "pvtctl.json"
"""Name of the metadata in a .pt2 file (`extra_files`)."""
_EXAMPLE_BATCH, _EXAMPLES = 2, ((128, 96), (256, 192), (512, 384))
"""The sides differ: torch.export takes equal numbers for one. No map may be one cell wide, hence the larger ones for strides
of 64 and 128.
"""

quiet = partial(warnings.catch_warnings, action="ignore")
"""Context that silences the exporters' warnings about their own internals: deprecated helpers, weights with gaps in memory
(pvtctl's are channels_last). Users cannot act on them, and errors are found when the file is compared with eager.
"""


@dataclass(frozen=True)
class Program:
    """An exported program and its input's dynamic sides."""

    program: ExportedProgram
    fixed: dict[str, str]
    """Those of `batch`, `height`, `width` that are fixed -> value and reason."""

    @property
    def dynamic(self) -> list[str]:
        return [name for name in AXES.values() if name not in self.fixed]

    @property
    def least(self) -> dict[str, int]:
        """The smallest dynamic height and width of the program: torch.export treats a map that is one cell wide as one that
        always is, so the coarsest map must be wider. An ONNX file has no such limit.
        """
        shape, ranges = _input_shape(self.program), self.program.range_constraints
        open_sides = {name: shape[at].node.expr for at, name in AXES.items() if at and name not in self.fixed}
        return {name: max(MIN_SIDE, int(ranges[expr].lower)) for name, expr in open_sides.items() if expr in ranges}

    def to_bytes(self, meta: Mapping[str, Any]) -> bytes:
        """A .pt2 file; `meta` is its extra file `pvtctl.json`."""
        content = io.BytesIO()
        with quiet():
            torch.export.save(self.program, content, extra_files={META_FILE: json.dumps(meta)})
        return content.getvalue()


def example(raw: RawModel, batch: int, size: ImageSize, *, seed: int = 0) -> Tensor:
    """Random pixels (B, 3, H, W) in the graph's input format."""
    generator = torch.Generator().manual_seed(seed)
    match raw.pixels:
        case "normalized":
            return torch.randn(batch, 3, *size, generator=generator)
        case "float":
            return torch.rand(batch, 3, *size, generator=generator)
        case "uint8":
            return torch.randint(0, 256, (batch, 3, *size), generator=generator, dtype=torch.uint8)


def export_program(raw: RawModel, *, size: ImageSize | None, default_size: ImageSize, static: bool) -> Program:
    """Trace `raw` (in eval mode).

    `size` fixes height and width, `static` fixes them (at `size`, else `default_size`) and a batch of 1. Raises
    PvtctlError, naming the operation, when torch.export cannot trace the model.
    """
    if static:
        at = size or default_size
        why = "as asked for (--static)"
        fixed = {"batch": f"1, {why}", "height": f"{at[0]}, {why}", "width": f"{at[1]}, {why}"}
        return Program(_export(raw, example(raw, 1, at), {}), fixed)
    if size is not None:
        return _with_fixed_sides(raw, size, "as asked for (--size)")
    if any(isinstance(module, VitHybrid) for module in raw.modules()):
        why = (
            "since the 'same' padding of its ResNet stem (F.pad by amounts that depend on the size) takes torch.export "
        )
        return _with_fixed_sides(raw, default_size, why + "six minutes with open sides")
    images = example(raw, _EXAMPLE_BATCH, _example_size(raw))
    try:
        program = _export(raw, images, dict.fromkeys(AXES, Dim.AUTO))
    except PvtctlError as error:
        return _with_fixed_sides(raw, default_size, error.message)
    fixed = _specialised(program)
    if "height" in fixed or "width" in fixed:  # at the example's sides, which were not requested
        return _with_fixed_sides(raw, default_size, _why_specialised(raw, images, fixed))
    return Program(program, fixed)


def _example_size(raw: RawModel) -> ImageSize:
    """The smallest example for which no map that is an output has a side of 1, or of the batch's size."""
    for size in _EXAMPLES[:-1]:
        try:
            outputs = raw.eager(example(raw, 1, size))
        except UsageError:  # a model that takes other sizes only: tracing says so
            return size
        if all(out.ndim != 4 or min(out.shape[2:]) > _EXAMPLE_BATCH for out in outputs):
            return size
    return _EXAMPLES[-1]


def _with_fixed_sides(raw: RawModel, size: ImageSize, why: str) -> Program:
    program = _export(raw, example(raw, _EXAMPLE_BATCH, size), {0: Dim.AUTO})
    fixed = {"height": f"{size[0]}, {why}", "width": f"{size[1]}, {why}"}
    batch = _specialised(program).get("batch")
    return Program(program, fixed | ({"batch": batch} if batch else {}))


def _export(raw: RawModel, images: Tensor, open_sides: Mapping[int, Any]) -> ExportedProgram:
    shapes = (dict(open_sides),) if open_sides else None
    with torch.no_grad(), quiet(), _quiet_logs():
        try:
            return torch.export.export(raw, (images,), dynamic_shapes=shapes)
        except Exception as error:  # any error of a third-party model
            raise PvtctlError(
                f"torch.export cannot trace {_named(raw)}: {_operation(error)}",
                "`--backbone-only` exports the backbone alone; `pvtctl --debug export` shows the traceback",
            ) from error


def _named(raw: RawModel) -> str:
    head, inner = getattr(raw.model, "head", None), getattr(raw.model, "backbone", raw.model)
    return f"{type(inner).__name__} + {type(head).__name__}" if head is not None else type(inner).__name__


def _operation(error: BaseException) -> str:
    """The failing operation in a line: the place in the code that torch names, and its message."""
    text = str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)', text)
    own = [each for each in places if "/torch/" not in each[0]]
    where = f" at `{own[-1][3].strip()}` ({own[-1][2]})" if own else ""
    return f"{first[:200]}{where}"


def _specialised(program: ExportedProgram) -> dict[str, str]:
    """The sides that torch.export fixed against the request."""
    shape = _input_shape(program)
    return {
        name: f"{shape[at]}, by an operation of the model" for at, name in AXES.items() if isinstance(shape[at], int)
    }


def _input_shape(program: ExportedProgram) -> Any:
    inputs = set(program.graph_signature.user_inputs)
    (node,) = (each for each in program.graph.nodes if each.op == "placeholder" and each.name in inputs)
    return node.meta["val"].shape


def _why_specialised(raw: RawModel, images: Tensor, fixed: Mapping[str, str]) -> str:
    """Trace again and require dynamic sides: torch then names the operation that fixes them."""
    try:
        _export(raw, images, {0: Dim.AUTO, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC})
    except PvtctlError as error:
        return error.message
    return f"since an operation of the model fixes its {' and '.join(fixed)}"


OPSET = 20
"""The native opset of torch's exporter, without a conversion afterwards."""
INPUT = "images"
CPU = torch.device("cpu")
_NEEDS = ("onnx", "onnxscript", "onnxruntime")


def require_onnx(what: str = "ONNX files need") -> None:
    """Raise UsageError, which begins with `what`, unless the packages that write and check ONNX files are installed."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} {', '.join(missing)}", "pip install 'pvtctl[export]'")


def write_onnx(raw: RawModel, program: Program, path: Path, meta: Mapping[str, str], *, optimize: bool = True) -> None:
    """Write `program` to `path` with opset OPSET; `meta` becomes the file's `metadata_props`.

    `optimize` simplifies the graph, which takes as long as writing it.

    The input is called `images`, the outputs as in `raw.names`. Raises PvtctlError where this torch has no ONNX form of an
    operation: torch 2.6 has none of batch normalisation.
    """
    import onnx

    axes = {at: name for at, name in AXES.items() if name not in program.fixed}
    with quiet(), _quiet_logs():
        try:
            written = torch.onnx.export(
                program.program,
                dynamo=True,
                verbose=False,
                optimize=optimize,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(raw.names),
                dynamic_shapes=(axes,) if axes else None,
            )
        except torch.onnx.OnnxExporterError as error:
            raise PvtctlError(
                f"torch {torch.__version__} cannot write this model as ONNX: {_cause(error)}",
                "a newer torch may (pip install -U torch); --format torch needs none",
            ) from error
        assert written is not None
        model = written.model_proto
    onnx.helper.set_model_props(model, dict(meta))
    model.producer_name = "pvtctl"
    onnx.save(model, str(path))


def _cause(error: BaseException) -> str:
    """What torch's exporter stumbled over: the error behind its page of advice, without the node's arguments."""
    while error.__cause__ is not None and "node" not in str(error).split("\n")[0]:
        error = error.__cause__
    first = str(error).strip().split("\n")[0].partition(" :")[0]
    operation = re.search(r"While executing %(\w+)", str(error))
    if "SymInt" in first and operation:  # torch 2.6
        return f"sides that are open in {operation[1]} (--size HxW fixes them)"
    return first


_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.fx.experimental.symbolic_shapes")


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Silence the exporters' logs of what they skip (torchvision's operators, unfolded constants) and of roots of sizes that
    they cannot print, with a traceback: users cannot act on it."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


class OnnxModel:
    """An ONNX file run by onnxruntime, with as many threads as torch.

    They sleep between two calls: waiting in a loop, as onnxruntime's do by default, they would slow down whatever else
    runs in the same process. `device`: the CPU, or a GPU, where TF32 is off.
    """

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; its warnings are about graph optimisations
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0, "use_tf32": 0}))
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.one_by_one = self.session.get_inputs()[0].shape[0] == 1

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        answers: list[Any] = self.session.run(None, {INPUT: images.cpu().numpy()})
        return [torch.from_numpy(answer).to(images.device) for answer in answers]
