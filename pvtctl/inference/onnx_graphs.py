"""A network run by onnxruntime: graphs exported when they are first needed, and kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.export.check import TOLERANCE, compare_outputs
from pvtctl.export.exportable import RawModel
from pvtctl.export.program import OnnxModel, example, export_program, require_onnx, write_onnx
from pvtctl.inference.graph_cache import GraphCache, fingerprint
from pvtctl.models.fast_cpu import plain_kernels
from pvtctl.models.structures import ImageSize

MOST_SESSIONS = 4
"""Graphs of a network that are loaded at a time; each holds the weights."""
ANY = "any"
"""Label of the graph for all sizes."""
FIXED = "fixed"
"""Label of the remark why a network has no such graph."""
_CHECKED = (160, 128)
"""Size at which a graph for all sizes is compared with torch, besides that of the first images."""


def require_engine(device: torch.device) -> None:
    """Raise UsageError unless onnxruntime, and what exports graphs for it, are installed, and run on `device`."""
    require_onnx("the engine onnxruntime needs")
    import onnxruntime

    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type)
    if wanted is None:
        raise UsageError(
            f"the engine onnxruntime does not run on {device.type} here", "--device cpu, or --engine torch"
        )
    if wanted not in onnxruntime.get_available_providers():
        raise UsageError(
            f"this onnxruntime {onnxruntime.__version__} has no {wanted}",
            "pip install onnxruntime-gpu in place of onnxruntime, or --device cpu",
        )


class OnnxNetwork:
    """Images (B, 3, H, W) -> the outputs of `raw`, computed by onnxruntime.

    One graph serves all sizes. Where a network has none that does, each size gets its own, when it is first seen.
    """

    def __init__(self, raw: RawModel, device: torch.device, say: Callable[[str], None]) -> None:
        self.raw, self.device, self.say = raw, device, say
        self._loaded: dict[str, OnnxModel] = {}

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        images, size = images.float(), (int(images.shape[2]), int(images.shape[3]))
        model = self._find(size) or self._export_once(size)
        try:
            if not model.one_by_one:
                return model(images)
            each = [model(images[at : at + 1]) for at in range(len(images))]
            return [torch.cat(parts) for parts in zip(*each, strict=True)]
        except Exception as error:  # onnxruntime's own classes
            raise UsageError(
                f"onnxruntime fails on images of {size[0]}x{size[1]}: {_first_line(error)}",
                "--engine torch runs every network",
            ) from error

    @functools.cached_property
    def cache(self) -> GraphCache:
        """Where the network's graphs are kept."""
        self.raw.eval()
        with plain_kernels(self.raw):
            return GraphCache(fingerprint(self.raw))

    def has_graph(self, size: ImageSize) -> bool:
        """Whether images of that size need no export."""
        return self._find(size) is not None

    def _find(self, size: ImageSize) -> OnnxModel | None:
        labels = (ANY, f"{size[0]}x{size[1]}")
        for label in labels:
            if label in self._loaded:
                return self._loaded[label]
        for label in labels:
            if (path := self.cache.find(label)) is not None:
                with contextlib.suppress(Exception):  # onnxruntime's own classes: such a file is written again
                    return self._keep_loaded(label, OnnxModel(path, self.device))
        return None

    def _keep_loaded(self, label: str, model: OnnxModel) -> OnnxModel:
        while len(self._loaded) >= MOST_SESSIONS:
            self._loaded.pop(next(iter(self._loaded)))
        self._loaded[label] = model
        return model

    def _export_once(self, size: ImageSize) -> OnnxModel:
        """Export the graph, or where another process is at it, such as another rank, wait for that one."""
        wait = "another process exports this network for onnxruntime; its graph is awaited ..."
        with self.cache.writing(lambda: self.say(wait)):
            return self._find(size) or self._export(size)

    def _export(self, size: ImageSize) -> OnnxModel:
        """Export a graph for all sizes, or where there can be none, for `size`; check, keep and load it."""
        self.say("exporting the network for onnxruntime, once for these weights (up to a few minutes) ...")
        start = time.monotonic()
        device, raw = self.device, self.raw.cpu()
        try:
            with tempfile.TemporaryDirectory(prefix="pvtctl-onnx-") as folder:
                file = Path(folder) / "graph.onnx"
                fixed = _write(raw, size, file, self.cache.noted(FIXED).get("why"))
                if fixed:
                    self.cache.note(FIXED, {"why": fixed})
                label = f"{size[0]}x{size[1]}" if fixed else ANY
                path, remark = self.cache.keep(label, file)
                model = self._keep_loaded(label, OnnxModel(path, device))
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of torch, onnxscript and onnxruntime too
            why = getattr(error, "message", None) or _first_line(error)
            raise UsageError(
                f"onnxruntime cannot run this network: {why}", "--engine torch runs every network"
            ) from error
        finally:
            raw.to(device)
        sizes = f"for images of {size[0]}x{size[1]} only: {fixed}; " if fixed else ""
        self.say(f"exported in {time.monotonic() - start:.0f} s; {sizes}{remark}")
        return model


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _write(raw: RawModel, size: ImageSize, file: Path, closed: str | None) -> str | None:
    """Write the checked graph of a network on the CPU: for all sizes, or if that is `closed` (why) or impossible, for `size`.

    Returns why height and width are fixed; None if they are not.
    """
    raw.names = tuple(f"output{at}" for at in range(len(raw.eager(example(raw, 1, size)))))
    with plain_kernels(raw):
        program = export_program(raw, size=size if closed else None, default_size=size, static=False)
        reasons = [each.partition(", ")[2] for each in program.fixed.values()]
        fixed = closed or next(iter(reasons), None)
        if "batch" in program.fixed:
            program = export_program(raw, size=size, default_size=size, static=True)
    write_onnx(raw, program, file, {}, optimize=False)  # onnxruntime does that itself
    batch = 1 if "batch" in program.fixed else 2
    cases = [(1, size), (batch, size if fixed else _CHECKED)]
    with contextlib.suppress(UsageError):  # a network that takes whole patches only
        raw.eager(example(raw, *cases[1]))
        compare_outputs(raw, OnnxModel(file), cases[1:], TOLERANCE)
    compare_outputs(raw, OnnxModel(file), cases[:1], TOLERANCE)
    return fixed
