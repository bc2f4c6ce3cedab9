"""`--engine auto` takes the faster engine, says why, keeps what it measured, and computes what torch does in every case."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.inference import EngineName, auto, engines
from pvtctl.inference.engines import AutoEngine, make_engine
from pvtctl.inference.graph_cache import GraphCache
from pvtctl.models.backbones import Backbone, Classifier
from pvtctl.models.fast_cpu.choices import Choices, using

CPU = torch.device("cpu")
IMAGES = torch.randn(2, 3, 64, 64)


class Tiny(Backbone):
    def __init__(self) -> None:
        super().__init__((4, 4, 4, 4))
        self.stages = nn.ModuleList(nn.Conv2d(c, 4, 3, stride, 1) for c, stride in ((3, 4), (4, 2), (4, 2), (4, 2)))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Network:
    """In the place of `OnnxNetwork`: doubles what torch computes, so that it can be told apart."""

    graphs: set[str] = set()
    """The sizes of which there is a graph."""
    error: Exception | None = None

    def __init__(self, raw: Any, device: torch.device, say: Any) -> None:
        self.raw, self.cache = raw, GraphCache("key")

    def has_graph(self, size: tuple[int, int]) -> bool:
        return f"{size[0]}x{size[1]}" in self.graphs

    def __call__(self, images: Tensor) -> list[Tensor]:
        if self.error is not None:
            raise self.error
        self.graphs.add(f"{images.shape[2]}x{images.shape[3]}")
        return [2 * each for each in self.raw.eager(images)]


class Others:
    """In the place of `OthersShare`."""

    busy = 0.0

    def __init__(self, pids: list[int]) -> None:
        assert os.getpid() in pids

    def share(self) -> float:
        return self.busy


Race = Callable[..., None]


@pytest.fixture
def race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Race:
    """`race(torch, onnxruntime)` sets the seconds that both take; without them, measuring is a failure."""
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path))
    monkeypatch.setattr(auto, "require_engine", lambda device: None)
    monkeypatch.setattr(engines, "OnnxNetwork", Network)
    monkeypatch.setattr(Network, "graphs", {"64x64"})
    monkeypatch.setattr(auto, "OthersShare", Others)
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def set_times(*seconds: float) -> None:
        def timed(calls: list[Callable[[], object]], span: float) -> list[float]:
            assert seconds, "measured again"
            for call in calls:
                call()
            return list(seconds)

        monkeypatch.setattr(auto, "shortest_seconds", timed)

    set_times()
    return set_times


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Classifier(Tiny(), 3).eval()


def taken(model: nn.Module, images: Tensor = IMAGES, number: int | None = None) -> tuple[EngineName, str]:
    """The engine that a new process takes, which must have computed the result, and what it says."""
    said: list[str] = []
    engine = AutoEngine(CPU, said.append)
    engine.images = number
    runnable = engine(model)
    assert engine(model) is runnable
    with torch.no_grad():
        found, again, expected = runnable(images), runnable(images[:1]), model(images)
    factor = 2 if engine.used is EngineName.onnxruntime else 1
    torch.testing.assert_close(found, factor * expected)
    torch.testing.assert_close(again, factor * expected[:1])
    (line,) = said
    assert line.startswith(f"engine: {engine.used}, since ")
    return engine.used, line


@pytest.mark.parametrize(("seconds", "name"), [(0.05, "onnxruntime"), (0.099, "torch"), (0.2, "torch")])
def test_the_faster_one_is_taken_and_kept(model: nn.Module, race: Race, seconds: float, name: str) -> None:
    race(0.1, seconds)
    engine, said = taken(model)
    assert engine == name
    assert f"a batch of 2 at 64x64 takes torch 100 ms and onnxruntime {1e3 * seconds:.3g} ms" in said
    race()
    assert taken(model) == (engine, said)
    assert taken(model, torch.randn(2, 3, 64, 64), number=1)[0] == engine, "a choice that is known costs nothing"


def test_what_was_kept_holds_for_the_same_machine_and_size_only(
    model: nn.Module, race: Race, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race(0.1, 0.05)
    taken(model)
    race(0.1, 0.3)
    assert taken(model, torch.randn(2, 3, 256, 64))[0] == "torch"
    assert taken(model, torch.randn(8, 3, 64, 64))[0] == "torch"
    with using(Choices(split_readout=True)):
        assert taken(model)[0] == "torch", "torch computes with other kernels"
    race()
    assert taken(model)[0] == "onnxruntime"
    monkeypatch.setattr(Network, "graphs", set())
    race(0.1, 0.3)
    assert taken(model)[0] == "torch", "the graph is gone"
    for note in (tmp_path / "onnx").glob("key-auto-*.json"):
        note.write_text(json.dumps({"engine": "compile", "why": 3}))
    assert taken(model)[0] == "torch"


def test_a_busy_machine_decides_for_now_only(model: nn.Module, race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Others, "busy", 0.4)
    race(0.1, 0.05)
    engine, said = taken(model)
    assert (engine, said.endswith("(not kept: other programs use 40% of this machine)")) == ("onnxruntime", True)
    race(0.1, 0.3)
    assert taken(model)[0] == "torch"


def test_few_images_are_not_measured(model: nn.Module, race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, said = taken(model, number=40)
    assert (engine, "40 images are 20" in said) == ("torch", True)
    monkeypatch.setattr(Network, "graphs", set())
    monkeypatch.setattr(auto, "perf_counter", iter([0.0, 0.01]).__next__)
    engine, said = taken(model, number=41)
    assert engine == "torch"
    assert "since 41 images take it 0.21 s" in said
    assert "a new graph for onnxruntime can pay from 120 s of its time" in said
    monkeypatch.setattr(auto, "perf_counter", iter([0.0, 9.0, 10.0, 19.0]).__next__)
    race(0.1, 0.05)
    assert taken(model, number=41)[0] == "onnxruntime"


def test_without_onnxruntime_it_is_torch(model: nn.Module, race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "error", OSError(28, "No space left on device"))
    race(0.1, 0.05)
    assert "No space left" in taken(model)[1]
    monkeypatch.setattr(Network, "error", UsageError("onnxruntime cannot run this network: an operation"))
    assert taken(model) == ("torch", "engine: torch, since onnxruntime cannot run this network: an operation")
    race()
    assert "an operation" in taken(model)[1], "a failed export is not tried again"
    with torch.autocast("cpu", torch.bfloat16):
        engine = AutoEngine(CPU, lambda text: None)
        engine(model)(IMAGES)
    assert engine.used is EngineName.torch
    monkeypatch.setattr(auto, "require_engine", missing)
    assert "onnx is missing (install it)" in taken(model)[1]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert "several processes" in taken(model)[1]
    assert "this is meta" in str(auto.why_torch(torch.device("meta")))


def missing(device: torch.device) -> None:
    raise UsageError("onnx is missing", "install it")


def test_it_measures_by_itself(model: nn.Module, race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvtctl.models.fast_cpu.calibrate import shortest_seconds

    monkeypatch.setattr(auto, "shortest_seconds", shortest_seconds)
    monkeypatch.setattr(auto, "SECONDS", 0.0)
    engine = make_engine("auto", CPU, lambda text: None)
    with torch.no_grad():
        engine(model)(IMAGES)
    assert engine.used in ("torch", "onnxruntime")
