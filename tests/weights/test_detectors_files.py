"""Inspecting, converting and verifying files of detectors, as the commands do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from pvtctl.cli.main import main
from pvtctl.data.class_names import COCO_NAMES
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.convert import convert_file
from pvtctl.weights.inspect import verify_weights
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import to_publisher
from pvtctl.weights.save import save_safetensors

BACKBONE = "pvt_v2_b0"


def _state(head: str, classes: int, backbone: str = BACKBONE) -> dict[str, Tensor]:
    """Random numbers under a detector's names."""
    with without_values():
        narrow = {} if head == "detr" else {"width": 32}
        names = build_detector(backbone, head, num_classes=classes, **narrow).state_dict()
    random = torch.Generator().manual_seed(0)
    return {key: torch.rand(value.shape, generator=random) for key, value in names.items()}


@pytest.fixture(params=["retinanet", "mask_rcnn", "detr"])
def head(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_inspect(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": to_publisher(_state(head, 80)), "meta": {"CLASSES": COCO_NAMES}}, path)
    assert main(["weights", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for word in (f"{head} (detection)", "conventions of the papers", BACKBONE, "80"):
        assert word in out
    assert main(["weights", "inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["head"], found["conventions"], found["classes"]) == (head, "papers", 80)
    assert found["models"] == [BACKBONE]
    verdict = verify_weights(str(path))
    assert (verdict.ok, verdict.models) == (True, [BACKBONE])


def test_convert_there_and_back(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = to_publisher(_state(head, 80))
    torch.save({"model": original}, tmp_path / "theirs.pth")
    assert main(["weights", "convert", str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors")]) == 0
    assert f"{head} of {BACKBONE}" in capsys.readouterr().err
    ours = read_checkpoint(tmp_path / "ours.safetensors")
    assert ours.format == "pvtctl"
    assert ours.meta.detection == {"resize": "antialias" if head == "detr" else "bilinear"}
    assert {key: getattr(ours.meta, key) for key in ("task", "head", "num_classes", "conventions", "backbone")} == {
        "task": "detection",
        "head": head,
        "num_classes": 80,
        "conventions": "papers",
        "backbone": BACKBONE,
    }
    assert ours.meta.class_names == list(COCO_NAMES)
    assert (ours.meta.category_ids or [])[-1] == 90
    back = tmp_path / "back.pth"
    assert main(["weights", "convert", str(tmp_path / "ours.safetensors"), str(back), "--to", "official"]) == 0
    again = read_checkpoint(back)
    assert again.raw.keys() == original.keys()
    assert all(torch.equal(again.raw[key], original[key]) for key in original)
    if head != "detr":  # mmdetection's files say their classes, facebookresearch's do not
        assert again.meta.class_names == list(COCO_NAMES)


@pytest.mark.parametrize("to", ["ours", "official"])
def test_a_converted_file_says_how_images_are_read(to: Literal["ours", "official"], tmp_path: Path) -> None:
    stated = {"detection": {"test_short_side": 256, "resize": "antialias"}, "exif": "ignore", "grey_range": [0.0, 9.0]}
    meta = {"backbone": BACKBONE, "head": "retinanet", "task": "detection", **stated}
    save_safetensors(tmp_path / "run.safetensors", _state("retinanet", 2), meta)
    convert_file(tmp_path / "run.safetensors", tmp_path / "converted.safetensors", to=to)
    found = read_checkpoint(tmp_path / "converted.safetensors").meta.as_json()
    assert {key: found[key] for key in stated} == stated


def test_torchvisions_conventions_have_no_official_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_safetensors(tmp_path / "tv.safetensors", _state("mask_rcnn", 2), {"conventions": "torchvision"})
    assert main(["weights", "convert", str(tmp_path / "tv.safetensors"), str(tmp_path / "o.pth"), "--to=official"]) == 2
    error = capsys.readouterr().err
    assert "torchvision's conventions, which mmdetection's layout cannot say" in error
    assert "leave --to out" in error
    assert not (tmp_path / "o.pth").exists()


def test_inspect_says_what_is_not_built_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {key: value for key, value in _state("retinanet", 2).items() if key.startswith("backbone.")}
    torch.save(state | {"roi_head.bbox_head.0.fc_cls.weight": torch.ones(3)}, tmp_path / "cascade.pth")
    assert main(["weights", "inspect", str(tmp_path / "cascade.pth")]) == 0
    assert "Cascade R-CNN, not supported by pvtctl" in " ".join(capsys.readouterr().out.split())


def test_timm_backbone_under_a_head(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    state = _state("retinanet", 3, "timm:resnet18")
    meta = {"backbone": "timm:resnet18", "class_names": ["a", "b", "c"]}
    save_safetensors(tmp_path / "best.safetensors", state, meta)
    model = build_detector("timm:resnet18", "retinanet", num_classes=3, width=32)
    report = load_checkpoint(model, tmp_path, class_names=["a", "b", "c"])
    assert (report.backbone_share, report.above_share, report.head_kept) == (1.0, 1.0, 3)
    assert torch.equal(model.state_dict()["neck.inner_blocks.0.0.weight"], state["neck.inner_blocks.0.0.weight"])
    import timm

    theirs = timm.create_model("resnet18").state_dict()
    report = load_checkpoint(model, theirs)
    assert (report.backbone_share, report.above_loaded) == (1.0, 0)
    assert torch.equal(model.state_dict()["backbone.net.conv1.weight"], theirs["conv1.weight"])
