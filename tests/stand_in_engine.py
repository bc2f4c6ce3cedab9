"""torch in the place of onnxruntime: what a command does with an engine, without exporting a graph."""

from __future__ import annotations

from typing import Any

import pytest

from pvtctl.inference import EngineName, engines


class StandInEngine(engines.Engine):
    """Counts the images whose network it computes."""

    name = EngineName.onnxruntime
    fp32 = True
    seen = 0

    def _network(self, raw: Any) -> Any:
        def run(images: Any) -> Any:
            type(self).seen += len(images)
            return raw.eager(images)

        return run


def put_in(monkeypatch: pytest.MonkeyPatch) -> type[StandInEngine]:
    """Let `--engine onnxruntime` be this one; returns it, with nothing counted."""
    monkeypatch.setattr(StandInEngine, "seen", 0)
    monkeypatch.setitem(engines._ENGINES, EngineName.onnxruntime, StandInEngine)
    return StandInEngine
