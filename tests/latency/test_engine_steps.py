"""The steps that are timed with another engine than torch: the network is computed by the engine alone."""

from __future__ import annotations

from typing import Any

import pytest
import stand_in_engine
import torch

from pvtctl.latency.steps import build_step


@pytest.mark.parametrize("head", ["none", "retinanet", "detr", "semantic_fpn"])
def test_the_engine_computes_the_network(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stand_in_engine.put_in(monkeypatch)
    case: dict[str, Any] = {"backbone": "resnet18@0.25", "head": head, "size": (64, 96), "batch_size": 2}
    case |= {"mode": "forward", "dtype": "fp32", "engine": "onnxruntime", "channels_last": False}
    case |= {"num_classes": None, "output_stride": None, "options": ""}
    step, model = build_step(case, torch.device("cpu"))
    first = engine.seen
    with monkeypatch.context() as alone:
        alone.setattr(type(getattr(model, "backbone", model)), "forward", once(engine, model))
        step()
    assert engine.seen == first + 2
    if head != "none":
        seconds = step.seconds  # type: ignore[attr-defined]
        assert list(seconds) == ["preprocess", "network", "postprocess"]
        assert all(each > 0 for each in seconds.values())


def once(engine: Any, model: Any) -> Any:
    """The backbone's forward, which the engine alone may call."""
    backbone = type(getattr(model, "backbone", model))
    forward, start = backbone.forward, engine.seen

    def run(self: Any, images: Any) -> Any:
        assert engine.seen > start, "called by torch"
        return forward(self, images)

    return run
