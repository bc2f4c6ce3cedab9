"""Programs and ONNX files agree with eager at several sizes, say what they are, and never stand there unchecked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from onnx_of_torch import writes_batch_norm, writes_open_sides
from torch import Tensor, nn

from pvtctl.errors import ExitCode, PvtctlError, UsageError
from pvtctl.export import export_model
from pvtctl.export import model as model_module
from pvtctl.export.check import difference_of
from pvtctl.export.exportable import Pixels, RawModel, raw_model
from pvtctl.export.program import Program, _cause, export_program
from pvtctl.io.normalization import IMAGENET, Normalization, Order
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.structures import ImageSize

pytest.importorskip("onnx", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")

Narrow = Callable[[str], nn.Module]
TracedOnce = Callable[[str], None]
OPEN = ["batch", "height", "width"]


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {}


@pytest.fixture
def traced_once(programs: dict[str, Program], monkeypatch: pytest.MonkeyPatch) -> TracedOnce:
    """`traced_once(kind)`: `export_model` traces `narrow(kind)`, with open sides, only if no test before it did."""

    def of_kind(kind: str) -> None:
        def export(raw: RawModel, *, size: None, default_size: ImageSize, static: Literal[False]) -> Program:
            assert (size, static) == (None, False)
            if kind not in programs:
                programs[kind] = export_program(raw, size=size, default_size=default_size, static=static)
            return programs[kind]

        monkeypatch.setattr(model_module, "export_program", export)

    return of_kind


def test_program_agrees_and_says_its_smallest_sides(tmp_path: Path, narrow: Narrow, traced_once: TracedOnce) -> None:
    model = narrow("shallow").train()
    traced_once("shallow")
    report = export_model(model, tmp_path / "m.pt2", default_size=(96, 96), repeats=1)
    assert (report.dynamic, report.opset) == (OPEN, None)
    assert report.least == {"height": 64, "width": 64}
    assert report.largest_difference < 1e-4
    assert model.training  # as it was before
    extra = {"pvtctl.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert json.loads(extra["pvtctl.json"])["outputs"] == ["logits"]
    images = torch.randn(3, 3, 101, 75)
    with torch.no_grad():
        torch.testing.assert_close(program(images)[0], model.eval()(images), rtol=1e-4, atol=1e-5)


@writes_open_sides
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("shallow", ("logits",)),
        ("retinanet", tuple(f"{what}_p{level}" for what in ("classes", "boxes") for level in range(3, 8))),
        ("semantic_fpn", ("logits",)),
        ("dpt", ("inverse_depth",)),
    ],
)
def test_onnx_agrees_at_three_sizes(
    tmp_path: Path, narrow: Narrow, traced_once: TracedOnce, kind: str, outputs: tuple[str, ...]
) -> None:
    model = narrow(kind)
    traced_once(kind)
    report = export_model(model, tmp_path / "m.onnx", default_size=(192, 192), repeats=1, meta={"backbone": "narrow"})
    assert (report.outputs, report.dynamic, report.fixed, report.opset) == (outputs, OPEN, {}, 20)
    sizes = {(check.batch, check.size) for check in report.checks}
    assert len(sizes) == 3
    assert {batch for batch, _ in sizes} == {1, 2}
    assert any(height != width for _, (height, width) in sizes)
    assert report.largest_difference < 1e-4
    assert set(report.timing.milliseconds) == {"eager", "program", "onnxruntime"}

    session = _session(tmp_path / "m.onnx")
    assert [each.name for each in session.get_outputs()] == list(outputs)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    images = torch.randn(3, 3, 160, 224)
    got = session.run(None, {"images": images.numpy()})
    expected = raw_model(model.eval(), pixels="normalized", normalization=IMAGENET).eager(images)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))
    said = session.get_modelmeta().custom_metadata_map
    assert (said["backbone"], said["pixels"], json.loads(said["mean"])) == ("narrow", "normalized", list(IMAGENET.mean))


@pytest.mark.parametrize(
    ("kind", "body", "order"),
    [
        ("uint8", "shallow_v2", "rgb"),
        pytest.param("float", "classifier_resnet", "bgr", marks=writes_batch_norm),
    ],
)
def test_normalisation_lies_in_the_graph(tmp_path: Path, narrow: Narrow, kind: Pixels, body: str, order: Order) -> None:
    model = narrow(body).eval()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    how = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), order)
    mean, std = how.mean, how.std
    ordered = pixels.flip(1) if order == "bgr" else pixels
    with torch.no_grad():
        expected = model((ordered / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    path = tmp_path / "m.onnx"
    report = export_model(model, path, pixels=kind, normalization=how, static=True, size=(64, 64), repeats=1)
    assert report.inputs == kind
    given = pixels if kind == "uint8" else pixels / 255
    (got,) = _session(path).run(None, {"images": given.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)


def test_a_map_at_the_images_size(tmp_path: Path, narrow: Narrow) -> None:
    model = narrow("semantic_fpn")
    report = export_model(model, tmp_path / "m.pt2", at_size=True, size=(70, 100), repeats=1)
    assert report.dynamic == ["batch"]
    assert report.fixed == {"height": "70, as asked for (--size)", "width": "100, as asked for (--size)"}
    program = torch.export.load(tmp_path / "m.pt2").module()
    images = torch.randn(2, 3, 70, 100)
    with torch.no_grad():
        (got,) = program(images)
        expected = model.eval()
        torch.testing.assert_close(got, expected.at_size(expected(images), (70, 100)), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


def test_static_fixes_everything_and_says_so(tmp_path: Path, narrow: Narrow) -> None:
    report = export_model(narrow("backbone"), tmp_path / "m.pt2", static=True, size=(64, 96), repeats=1)
    assert report.dynamic == []
    assert report.fixed["batch"] == "1, as asked for (--static)"
    assert {(check.batch, check.size, check.output) for check in report.checks} == {
        (1, (64, 96), name) for name in ("c2", "c3", "c4", "c5")
    }


def test_vit_hybrid_is_fixed_with_a_reason(tmp_path: Path) -> None:
    from pvtctl.models.backbones import VitHybrid

    body = VitHybrid(
        embed_dim=16, depth=4, num_heads=2, mlp_ratio=2, stem_blocks=(1, 1, 1), stem_widths=(32, 64, 128), image_size=64
    )
    report = export_model(body, tmp_path / "m.pt2", default_size=(64, 64), repeats=1)
    assert report.dynamic == ["batch"]
    assert "F.pad" in report.fixed["height"]


def test_a_failed_check_leaves_no_file(tmp_path: Path, narrow: Narrow) -> None:
    options = {"static": True, "size": (64, 64), "repeats": 1}
    with pytest.raises(
        PvtctlError, match=r"logits of the exported graph differs from eager by .* above 1e-12"
    ) as error:
        export_model(narrow("tiny"), tmp_path / "m.onnx", tolerance=1e-12, **options)
    assert error.value.exit_code == ExitCode.FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_other_answers_is_caught(tmp_path: Path, narrow: Narrow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is with the model's own forward pass, not with what was traced."""

    def wrong(self: object, images: Tensor) -> tuple[Tensor, ...]:
        return (self.model(images) * 1.001,)  # type: ignore[attr-defined]

    monkeypatch.setattr("pvtctl.export.exportable.RawDense.traced", wrong)
    with pytest.raises(PvtctlError, match="differs from eager"):
        export_model(narrow("dpt"), tmp_path / "m.pt2", static=True, size=(64, 64), repeats=1)
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.mean()) > 0 else -x

    model = build_classifier("resnet18", num_classes=2)
    model.backbone.relu = Odd()
    with pytest.raises(PvtctlError, match=r"torch.export cannot trace ResNet \+ Linear: .*float\(x.mean\(\)\)"):
        export_model(model, tmp_path / "m.pt2", static=True, size=(64, 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is on a GPU"):
        export_model(build_classifier("resnet18", num_classes=2).cuda(), tmp_path / "m.pt2")


def test_mask_rcnn_is_refused_by_its_operations(tmp_path: Path) -> None:
    with without_values():
        model = build_detector("resnet18", "mask_rcnn", num_classes=2)
    with pytest.raises(UsageError, match=r"torchvision::nms.*torchvision::roi_align") as error:
        export_model(model, tmp_path / "m.pt2")
    assert "--backbone-only" in str(error.value.hint)


def test_wrong_arguments_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_backbone("resnet18")
    (tmp_path / "there.onnx").touch()
    for path, options, message in (
        ("there.onnx", {}, "exists"),
        ("m.bin", {}, "has not the ending of an exported model"),
        ("m.onnx", {"format": "torch"}, "has not the ending of torch"),
        ("m.onnx", {"format": "tflite"}, "no format 'tflite'"),
        ("m.onnx", {"size": (16, 64)}, "16x64 are too small"),
        ("m.onnx", {"check_sizes": [(64, 31)]}, "64x31 are too small"),
        ("m.onnx", {"tolerance": 0.0}, "lets nothing pass"),
        ("m.onnx", {"repeats": 0}, "0 timed calls"),
        ("m.onnx", {"at_size": True}, "only segmentation and depth models"),
    ):
        with pytest.raises(UsageError, match=message):
            export_model(model, tmp_path / path, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Linear is not a pvtctl model"):
        export_model(nn.Linear(2, 2), tmp_path / "m.pt2")
    monkeypatch.setattr(model_module.require_onnx.__globals__["importlib"].util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="ONNX files need onnx, onnxscript, onnxruntime") as error:
        export_model(model, tmp_path / "m.onnx")
    assert error.value.hint == "pip install 'pvtctl[export]'"


def test_what_the_exporter_lacks_is_a_line() -> None:
    told = RuntimeError(
        "/build/x.cpp:5: SymIntArrayRef expected\n\nWhile executing %upsample_nearest2d : [num_users=1]"
    )
    page = RuntimeError("Failed to decompose the graph.\nNext steps: ...")
    page.__cause__ = told
    assert _cause(page) == "sides that are open in upsample_nearest2d (--size HxW fixes them)"
    assert (
        _cause(RuntimeError("Error when translating node %add : [n]. See below")) == "Error when translating node %add"
    )


def test_nan_and_infinity_in_both_are_no_difference_and_in_one_are() -> None:
    one = torch.tensor([[1.0, math.nan, math.inf, -4.0]])
    assert difference_of(one, one) == (0, 0)
    assert difference_of(one + torch.tensor([0.0, 0, 0, 1]), one) == (1, 0.25)
    assert math.isnan(difference_of(one, one.nan_to_num())[0])
    assert difference_of(torch.zeros(2), torch.zeros(2)) == (0, 0)
