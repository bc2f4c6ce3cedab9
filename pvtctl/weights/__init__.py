"""Recognise, convert, load and fetch checkpoints of pvtctl and of other projects.

Names are imported on first use, so that `pvtctl.weights.catalogue` and `.download` load without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtctl.weights.catalogue import Published, published, published_for
    from pvtctl.weights.download import fetch_weights
    from pvtctl.weights.load import load_checkpoint
    from pvtctl.weights.read import Checkpoint, read_checkpoint
    from pvtctl.weights.report import LoadReport
    from pvtctl.weights.resolve import resolve_weights
    from pvtctl.weights.save import save_safetensors

__all__ = [
    "Checkpoint",
    "LoadReport",
    "Published",
    "fetch_weights",
    "load_checkpoint",
    "published",
    "published_for",
    "read_checkpoint",
    "resolve_weights",
    "save_safetensors",
]

_HOME = {
    "Checkpoint": "read",
    "LoadReport": "report",
    "Published": "catalogue",
    "fetch_weights": "download",
    "load_checkpoint": "load",
    "published": "catalogue",
    "published_for": "catalogue",
    "read_checkpoint": "read",
    "resolve_weights": "resolve",
    "save_safetensors": "save",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pvtctl.weights' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pvtctl.weights.{_HOME[name]}"), name)
