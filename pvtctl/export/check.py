"""Compare an exported graph with its model: differences of outputs at several sizes, and timings."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvtctl.errors import PvtctlError
from pvtctl.export.exportable import RawModel
from pvtctl.export.program import example
from pvtctl.models.structures import ImageSize

TOLERANCE = 1e-4
"""Largest accepted difference, relative to the largest value of an output."""

Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Check:
    """The largest difference of one output at one batch and size."""

    batch: int
    size: ImageSize
    output: str
    absolute: float
    relative: float
    """Relative to the output's largest absolute value."""


@dataclass(frozen=True)
class ExportTiming:
    """Median milliseconds per call, methods taking turns in one process with equal threads."""

    batch: int
    size: ImageSize
    threads: int
    repeats: int
    milliseconds: dict[str, float]
    """`eager`, `program` and, for ONNX files, `onnxruntime`."""

    def ratio(self, name: str) -> float:
        """Time relative to eager; below 1: faster."""
        return self.milliseconds[name] / self.milliseconds["eager"]


def compare_outputs(raw: RawModel, run: Run, cases: Sequence[tuple[int, ImageSize]], tolerance: float) -> list[Check]:
    """Compare the graph `run` with eager: one entry for each output of each (batch, size).

    Raises PvtctlError when the graph fails at a size, or an output differs by more than `tolerance`, has another shape,
    or is NaN where eager's is not.
    """
    checks = []
    for batch, size in cases:
        images = example(raw, batch, size, seed=batch)
        expected = raw.eager(images)
        case = f"a batch of {batch} at {size[0]}x{size[1]}"
        try:
            got = run(images)
        except Exception as error:  # onnxruntime and torch raise their own classes
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise PvtctlError(
                f"the exported graph fails on {case}: {first[:200]}", "nothing was written; --size HxW fixes the sides"
            ) from error
        for name, ours, theirs in zip(raw.names, got, expected, strict=True):
            if ours.shape != theirs.shape:
                raise PvtctlError(
                    f"{name} of the exported graph has the shape {tuple(ours.shape)} and eager {tuple(theirs.shape)} "
                    f"for {case}",
                    "nothing was written; --size HxW fixes the sides",
                )
            check = Check(batch, size, name, *difference_of(ours, theirs))
            if not check.relative <= tolerance:
                raise PvtctlError(
                    f"{name} of the exported graph differs from eager by {check.relative:.1e} of its largest value "
                    f"({check.absolute:.1e}) for {case}, which is above {tolerance:g}",
                    "nothing was written; --tolerance X accepts more",
                )
            checks.append(check)
    return checks


def difference_of(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The largest difference of two outputs of one shape, absolute and relative to the largest finite value of `theirs`.

    Equal infinite values, and NaN in both, as models with such weights give, do not differ; NaN in one is NaN.
    """
    ours, theirs = ours.double(), theirs.double()
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    absolute = float((ours - theirs).abs().masked_fill(same, 0).max())
    largest = float(theirs.abs().masked_fill(~theirs.isfinite(), 0).max())
    return absolute, absolute / largest if largest else absolute


def time_in_turns(raw: RawModel, runs: Mapping[str, Run], batch: int, size: ImageSize, repeats: int) -> ExportTiming:
    """Time `eager` and each of `runs`, one call of each in turn, `repeats` times after one untimed round.

    A program that does not support this size is left out; an ONNX file may support more.
    """
    images = example(raw, batch, size)
    every: dict[str, Run] = {"eager": raw.eager}
    for name, run in runs.items():
        with contextlib.suppress(AssertionError):  # raised by a guard of torch.export
            run(images)
            every[name] = run
    raw.eager(images)
    spent: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(repeats):
        for name, run in every.items():
            start = time.perf_counter()
            run(images)
            spent[name].append((time.perf_counter() - start) * 1e3)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    return ExportTiming(batch, size, torch.get_num_threads(), repeats, medians)
