"""Inference engines: what computes the network in `eval`, `predict` and `latency`. This file loads no torch."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    """Engines by name."""

    torch = "torch"
    compile = "compile"
    onnxruntime = "onnxruntime"
    auto = "auto"
    """torch or onnxruntime, whichever computes the first images faster."""
