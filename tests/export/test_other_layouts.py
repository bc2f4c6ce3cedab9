"""What is written for other projects: transformers and timm load it and answer as we do, files read back to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.export import export_layout, transformers_folder
from pvtctl.io.normalization import Normalization
from pvtctl.models.backbones import build_classifier
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.models.detector import build_detector
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint

Narrow = Callable[[str], nn.Module]
NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.mark.parametrize(("kind", "name"), [("classifier", "Pvt"), ("classifier_v2", "PvtV2")])
def test_transformers_gives_our_logits(tmp_path: Path, narrow: Narrow, kind: str, name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hub extra")
    model = narrow(kind).eval()
    pixels = Normalization((0.1, 0.2, 0.3), (0.25, 0.5, 0.75))
    report = export_layout(model, tmp_path / "out", "transformers", class_names=NAMES, normalization=pixels)
    assert (report.model, report.compared_with) == (f"{name}ForImageClassification", "transformers")
    theirs = getattr(transformers, report.model).from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == dict(enumerate(NAMES))
    side = theirs.config.image_size if kind == "classifier" else 96
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(theirs(images).logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    reader = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (list(reader.image_mean), list(reader.image_std)) == ([0.1, 0.2, 0.3], [0.25, 0.5, 0.75])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name", ["pvt_v2_b2_li@0.25", "pvt_tiny"])
def test_transformers_folder_reads_back_as_itself(tmp_path: Path, name: str) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    model = build_classifier(name, num_classes=3)
    export_layout(model, tmp_path / "out", "transformers")
    other = build_classifier(name, num_classes=3)
    load_checkpoint(other, tmp_path / "out")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_transformers_needs_not_be_installed(tmp_path: Path, narrow: Narrow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_folder.importlib.util, "find_spec", lambda name: None)
    report = export_layout(narrow("classifier"), tmp_path / "out", "transformers")
    assert (report.compared_with, report.difference) == (None, None)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["image_size"], config["hidden_sizes"]) == ("pvt", 64, [8, 16, 24, 32])


def test_other_logits_leave_no_folder(tmp_path: Path, narrow: Narrow) -> None:
    pytest.importorskip("transformers", reason="needs the hub extra")
    with pytest.raises(PvtctlError, match="transformers gives other outputs than ours"):
        export_layout(narrow("classifier"), tmp_path / "out", "transformers", tolerance=1e-12)
    assert list(tmp_path.iterdir()) == []


def test_timm_reads_the_official_layout_of_v2(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="needs the timm extra")
    model = build_classifier("pvt_v2_b0", num_classes=4).eval()
    report = export_layout(model, tmp_path / "b0.pth", "official")
    assert report.model == "pvt_v2_b0"
    overlay = {"file": str(tmp_path / "b0.pth"), "num_classes": 4}
    theirs = timm.create_model("pvt_v2_b0", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=4).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "format"),
    [
        (lambda: build_detector("resnet18", "retinanet", num_classes=3), "mmdetection RetinaNet"),
        (lambda: build_detector("resnet18", "mask_rcnn", num_classes=3), "mmdetection Mask R-CNN"),
        (lambda: build_detector("resnet18", "detr", num_classes=3), "facebookresearch DETR"),
        (lambda: build_segmenter("resnet18", "semantic_fpn", num_classes=3), "mmsegmentation Semantic FPN"),
    ],
    ids=["retinanet", "mask_rcnn", "detr", "semantic_fpn"],
)
def test_official_layouts_of_dense_models(tmp_path: Path, model: Callable[[], nn.Module], format: str) -> None:
    built = model()
    export_layout(built, tmp_path / "out.pth", "official", class_names=["a", "b", "c"])
    checkpoint = read_checkpoint(tmp_path / "out.pth")
    assert checkpoint.format == format
    state = built.state_dict()
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in checkpoint.state.items())


def test_what_a_layout_has_no_words_for_is_refused(tmp_path: Path, narrow: Narrow) -> None:
    backbone = narrow("backbone")
    depth = build_depth_model("resnet18", "dpt")
    (tmp_path / "there").mkdir()
    for model, path, layout, message in (
        (depth, "x.pth", "official", "this is a model with dpt, whose original has further, unused layers"),
        (depth, "x", "transformers", "not for DPT for depth on ResNet"),
        (backbone, "x", "transformers", "not for Pvt"),
        (narrow("classifier"), "there", "transformers", "exists"),
        (narrow("classifier"), "x.safetensors", "transformers", "is a file's name"),
        (narrow("classifier"), "x.onnx", "official", "has no known ending"),
        (narrow("classifier"), "x.pth", "timm", "no layout 'timm'"),
        (nn.Linear(2, 2), "x.pth", "official", "a Linear is not a pvtctl model"),
    ):
        with pytest.raises(UsageError, match=message):
            export_layout(model, tmp_path / path, layout)  # type: ignore[arg-type]
    plain = build_classifier("pvt_v2_b2_plain_ffn@0.25", num_classes=2)
    with pytest.raises(UsageError, match="always has a depthwise convolution"):
        export_layout(plain, tmp_path / "x", "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
