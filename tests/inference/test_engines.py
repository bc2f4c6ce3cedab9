"""Every engine computes what torch does, from the same images, with the graph written once for the same weights."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_of_torch import writes_open_sides
from stand_in_engine import StandInEngine
from tiny_backbone import Tiny
from torch import Tensor, nn

from pvtctl.errors import ExitCode, PvtctlError, UsageError
from pvtctl.export.exportable import network_of
from pvtctl.inference import graph_cache, onnx_graphs
from pvtctl.inference.engines import make_engine
from pvtctl.inference.graph_cache import GraphCache, fingerprint
from pvtctl.models.backbones import Classifier
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.fast_cpu import optimize_for_cpu, plain_kernels
from pvtctl.models.heads import detr
from pvtctl.models.heads.retinanet import RetinaNet
from pvtctl.models.structures import Detections, DetectOptions

CPU = torch.device("cpu")


class OwnDetect(RetinaNet):
    """A head of a user: other detections from RetinaNet's layers."""

    def detect(self, features: Any, sizes: Any, padded: Any, options: DetectOptions) -> list[Detections]:
        return [one.chosen(torch.arange(len(one)) < 1) for one in super().detect(features, sizes, padded, options)]


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    match kind:
        case "classifier":
            model: nn.Module = Classifier(Tiny(), 5)
        case "semantic_fpn":
            model = build_segmenter(Tiny(), "semantic_fpn", num_classes=3, head_options={"width": 16})
        case "midas":
            model = build_depth_model(Tiny(), "midas", head_options={"width": 16})
        case "own":
            model = build_detector(Tiny(), "retinanet", num_classes=3, width=16)
            model.head.__class__ = OwnDetect
        case "detr":
            model = build_detector(Tiny(), "detr", num_classes=3, num_queries=5)
        case _:
            model = build_detector(Tiny(), kind, num_classes=3, width=16)
    if isinstance(model, Detector) and isinstance(model.head, RetinaNet):
        for tower in (model.head.classification_head, model.head.regression_head):
            tower.conv = tower.conv[:1]  # of four equal ones: each is traced, and compiled, at five levels
    with torch.no_grad():  # initial scores of detectors are all below the threshold, and no order of theirs is certain
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_logits.weight", "cls_score.weight", "rpn.cls_logits.weight", "class_embed.weight")):
                parameter.normal_(std=1.0)
            if name.endswith("cls_logits.bias"):
                parameter.zero_()
    return optimize_for_cpu(model.eval())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PVTCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detr, "DEPTH", 1)


def outputs(model: nn.Module, runnable: nn.Module, images: Tensor, sizes: Sequence[Any]) -> list[Tensor]:
    """All numbers of a prediction."""
    with torch.inference_mode():
        if not isinstance(model, Detector):
            return [runnable(images)]
        found = runnable(images, sizes, None, DetectOptions(max_detections=5), [(90, 70)] * len(sizes))
    parts: list[Tensor] = []
    for one in found:
        parts += [one.boxes, one.scores, one.labels.float()]
        if one.masks is not None:
            parts.append(torch.tensor([float(len(mask["counts"])) for mask in one.masks]))
    return parts


@pytest.mark.parametrize("kind", ["classifier", "semantic_fpn", "midas", "retinanet", "mask_rcnn", "detr", "own"])
def test_the_seam_changes_nothing(kind: str, shallow: None) -> None:
    model = build(kind)
    runnable = StandInEngine(CPU)(model)
    images = torch.randn(3, 3, 96, 64)
    for size in ((96, 64), (64, 60)):
        sizes = [(96, 64), size, (50, 64)]
        for ours, theirs in zip(
            outputs(model, runnable, images, sizes), outputs(model, model, images, sizes), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    if isinstance(model, Detector):
        assert sum(len(each) for each in outputs(model, model, images, [(96, 64)] * 3)) >= 9


@pytest.mark.parametrize(
    "kind",
    [
        "classifier",
        *(
            pytest.param(kind, marks=[pytest.mark.slow, writes_open_sides])
            for kind in ("retinanet", "mask_rcnn", "detr")
        ),
    ],
)
def test_onnxruntime_computes_what_torch_does(kind: str, shallow: None) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    model = build(kind)
    said: list[str] = []
    runnable = make_engine("onnxruntime", CPU, said.append)(model)
    for batch, height, width in ((2, 96, 64), (1, 64, 160)):
        images = torch.randn(batch, 3, height, width)
        sizes = [(height, width), (height - 20, width - 5)][:batch]
        for ours, theirs in zip(
            outputs(model, runnable, images, sizes), outputs(model, model, images, sizes), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert [line.split()[0] for line in said] == ["exporting", "exported"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the graph of the classifier."""
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PVTCTL_CACHE", str(folder))
        make_engine("onnxruntime", CPU, lambda text: None)(build("classifier"))(torch.randn(1, 3, 64, 64))
    return folder


def test_a_graph_is_exported_once_for_the_same_weights(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PVTCTL_CACHE", str(exported))
    monkeypatch.setattr(onnx_graphs, "export_program", refuse)
    said: list[str] = []
    engine = make_engine("onnxruntime", CPU, said.append)
    model, images = build("classifier"), torch.randn(3, 3, 40, 96)
    assert engine(model) is engine(model)
    with torch.no_grad():
        torch.testing.assert_close(engine(model)(images), model(images), rtol=1e-4, atol=1e-5)
        assert said == []
        next(model.parameters()).mul_(2)
        with pytest.raises(UsageError, match="onnxruntime cannot run this network: refused") as error:
            make_engine("onnxruntime", CPU, said.append)(model)(images)
    assert error.value.exit_code == ExitCode.USAGE
    assert "--engine torch" in str(error.value.hint)
    assert len(said) == 1


def test_processes_that_need_one_graph_write_it_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the ranks of an evaluation do: locks of files hold between threads as between processes."""
    (graph,) = (exported / "onnx").glob("*.onnx")
    begun, awaited = threading.Event(), threading.Event()
    written: list[Path] = []

    def write(raw: Any, size: Any, file: Path, closed: str | None) -> None:
        begun.set()
        assert awaited.wait(60)
        shutil.copyfile(graph, file)
        written.append(file)

    def say(text: str) -> None:
        if text.startswith("another process"):
            awaited.set()

    monkeypatch.setattr(onnx_graphs, "_write", write)
    models, images = [build("classifier") for _ in range(2)], torch.randn(2, 3, 64, 64)
    found: list[Tensor] = []
    ranks = [
        threading.Thread(target=lambda model=model: found.append(make_engine("onnxruntime", CPU, say)(model)(images)))
        for model in models
    ]
    ranks[0].start()
    assert begun.wait(60)
    ranks[1].start()
    for rank in ranks:
        rank.join(60)
    assert len(written) == 1
    with torch.no_grad():
        for each in found:
            torch.testing.assert_close(each, models[0](images), rtol=1e-4, atol=1e-5)
    assert len(found) == 2


def test_a_damaged_graph_is_exported_again(exported: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(exported, own_cache)
    (graph,) = (own_cache / "onnx").glob("*.onnx")
    graph.write_bytes(graph.read_bytes()[:-9] + b"otherbits")
    said: list[str] = []
    model, images = build("classifier"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = make_engine("onnxruntime", CPU, said.append)(model)(images)
        torch.testing.assert_close(found, model(images), rtol=1e-4, atol=1e-5)
    assert len(said) == 2


def refuse(*arguments: Any, **options: Any) -> Any:
    raise PvtctlError("refused")


def test_a_network_of_fixed_sides_gets_a_graph_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that takes a single image is called with one at a time."""
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    real = onnx_graphs.export_program

    def fixed(raw: Any, *, size: Any, default_size: Any, static: bool) -> Any:
        program = real(raw, size=default_size, default_size=default_size, static=True)
        return replace(
            program,
            fixed={side: f"{value.partition(',')[0]}, by an operation" for side, value in program.fixed.items()},
        )

    monkeypatch.setattr(onnx_graphs, "export_program", fixed)
    model, said = build("classifier"), []
    runnable = make_engine("onnxruntime", CPU, said.append)(model)
    with torch.no_grad():
        for batch, side in ((2, 64), (1, 96), (3, 64)):
            images = torch.randn(batch, 3, side, 64)
            torch.testing.assert_close(runnable(images), model(images), rtol=1e-4, atol=1e-5)
    assert sum("exported" in line for line in said) == 2
    assert "for images of 64x64 only: by an operation" in said[1]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no engine 'tensorrt'"):
        make_engine("tensorrt", CPU)
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    for device, message in (("cuda", "has no CUDAExecutionProvider"), ("meta", "does not run on meta")):
        with pytest.raises(UsageError, match=message) as error:
            make_engine("onnxruntime", torch.device(device))
        assert "--device cpu" in str(error.value.hint)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="the engine onnxruntime needs onnx, onnxscript, onnxruntime") as error:
        make_engine("onnxruntime", CPU)
    assert error.value.hint == "pip install 'pvtctl[export]'"


def test_the_hash_follows_weights_settings_and_code(tmp_path: Path) -> None:
    def key(model: nn.Module) -> str:
        with plain_kernels(model):
            return fingerprint(network_of(model))

    first = key(build("semantic_fpn"))
    assert key(build("semantic_fpn")) == first
    scaled, buffered, other = build("semantic_fpn"), build("semantic_fpn"), build("semantic_fpn")
    scaled.backbone.scale = 2.0
    next(buffered.buffers()).add_(1)
    other.head.__class__ = type("Other", (type(other.head),), {})
    keys = [first, key(scaled), key(buffered), key(other)]
    assert len(set(keys)) == 4


def test_the_cache_is_bounded_and_says_when_it_cannot_write(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_cache / "onnx"
    file = tmp_path / "graph.onnx"
    monkeypatch.setattr(graph_cache, "MOST_BYTES", 250)
    for at, name in enumerate(("old", "used", "new")):
        file.write_bytes(bytes([at]) * 100)
        path, remark = GraphCache(name).keep("any", file)
        assert remark == f"kept in {folder}"
        os.utime(path, (at, at))
        if name == "used":
            os.utime(GraphCache("old").find("any") or "", (0, 0))
    assert [name for name in ("old", "used", "new") if GraphCache(name).find("any")] == ["used", "new"]
    assert len(list(folder.iterdir())) == 4  # two graphs and what names them
    blocked = GraphCache("x", tmp_path / "graph.onnx" / "folder")
    path, remark = blocked.keep("any", file)
    assert path == file
    assert remark.startswith("not kept: ")
    blocked.note("fixed", {"why": "text"})
    assert blocked.noted("fixed") == {}


@pytest.mark.slow
def test_a_compiled_network_computes_what_torch_does() -> None:
    model, images = build("retinanet"), torch.randn(1, 3, 96, 64)
    runnable, sizes = make_engine("compile", CPU)(model), [(90, 64)]
    for ours, theirs in zip(outputs(model, runnable, images, sizes), outputs(model, model, images, sizes), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
