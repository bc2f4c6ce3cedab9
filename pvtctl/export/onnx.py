"""Write an exported program as an ONNX file, and run the file with onnxruntime."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.export.exportable import RawModel
from pvtctl.export.program import AXES, Program, quiet

OPSET = 20
"""The native opset of torch's exporter, without a conversion afterwards."""
INPUT = "images"
_NEEDS = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise UsageError unless the packages that write and check ONNX files are installed."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX files need {', '.join(missing)}", "pip install 'pvtctl[export]'")


def write_onnx(raw: RawModel, program: Program, path: Path, meta: Mapping[str, str]) -> None:
    """Write `program` to `path` with opset OPSET; `meta` becomes the file's `metadata_props`.

    The input is called `images`, the outputs as in `raw.names`.
    """
    import onnx

    axes = {at: name for at, name in AXES.items() if name not in program.fixed}
    with quiet(), _quiet_logs():
        written = torch.onnx.export(
            program.program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(raw.names),
            dynamic_shapes=(axes,) if axes else None,
        )
        assert written is not None
        model = written.model_proto
    onnx.helper.set_model_props(model, dict(meta))
    model.producer_name = "pvtctl"
    onnx.save(model, str(path))


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Silence the exporter's logs of what it skips (torchvision's operators, unfolded constants): users cannot act on it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


class OnnxModel:
    """An ONNX file run by onnxruntime on the CPU, with as many threads as torch."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings are about graph optimisations
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        answers: list[Any] = self.session.run(None, {INPUT: images.numpy()})
        return [torch.from_numpy(answer) for answer in answers]
