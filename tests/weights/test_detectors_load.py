"""What `load_checkpoint` does with detectors: what it takes, matches by class name, leaves fresh and refuses."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvtctl.data.class_names import COCO_NAMES
from pvtctl.errors import UsageError
from pvtctl.io.files import sha256_of
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.detector import Detector, build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import head_spec
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.layouts import detr as names_detr
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.recognise import to_publisher
from pvtctl.weights.remap_classes import class_tables
from pvtctl.weights.save import save_safetensors

BACKBONE = "pvt_v2_b0@0.25"
HEADS: list[str] = ["retinanet", "mask_rcnn", "detr"]
NARROW: dict[str, dict[str, Any]] = {"retinanet": {"width": 32}, "mask_rcnn": {"width": 32}, "detr": {}}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    """A detector of three classes with each head."""
    torch.manual_seed(0)
    states = {head: build_detector(BACKBONE, head, num_classes=3, **NARROW[head]).state_dict() for head in HEADS}
    return {
        head: {key: value + 0.01 if value.is_floating_point() else value for key, value in state.items()}
        for head, state in states.items()
    }


def _blank(head: str, classes: int = 3, backbone: str = BACKBONE, **options: Any) -> Detector:
    """Without starting values, which take longest: all 7."""
    with without_values():
        model = build_detector(backbone, head, num_classes=classes, **NARROW[head] | options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(7)
    return model


def _same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("head", HEADS)
def test_own_file_round_trip(head: str, states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    meta = {"backbone": BACKBONE, "head": head, "class_names": ["a", "b", "c"], "category_ids": [3, 1, 7]}
    save_safetensors(path, states[head], meta | {"conventions": "papers"})
    model = _blank(head)
    report = load_checkpoint(model, tmp_path, class_names=["a", "b", "c"])
    assert _same(model.state_dict(), states[head])
    assert (report.backbone_share, report.above_share, report.head_kept) == (1.0, 1.0, 3)
    assert not any((report.missing, report.unexpected, report.mismatched, report.dropped, report.nonfinite))
    assert "neck and head: 100.0 %" in report.summary()
    found = inspect_checkpoint(tmp_path)
    assert found.backbone == BACKBONE
    assert found.detector is not None
    assert found.head is not None
    assert found.head.num_classes == 3
    assert (found.detector.head, found.detector.class_names) == (head, ["a", "b", "c"])
    assert (found.detector.category_ids, found.detector.conventions) == ([3, 1, 7], "papers")
    assert found.detector.options.get("num_queries") == (100 if head == "detr" else None)


@pytest.mark.parametrize("head", HEADS)
def test_classifier_fills_the_backbone_alone(head: str) -> None:
    source = build_classifier(BACKBONE, num_classes=5)
    model = _blank(head)
    report = load_checkpoint(model, source.state_dict(), class_names=["a", "b", "c"])
    assert _same(model.backbone.state_dict(), source.backbone.state_dict())
    assert all(bool((value == 7).all()) for value in model.head.state_dict().values())
    assert (report.above_loaded, report.head_kept, report.head_new) == (0, 0, 3)
    assert "neck and head: start fresh (the file holds no detector)" in report.summary()
    with pytest.raises(UsageError, match=r"holds pvt_v2_b0\S* .* not resnet18"):
        load_checkpoint(_blank(head, backbone="resnet18"), source.state_dict())


def test_context_blocks_may_be_missing() -> None:
    plain = build_backbone("resnet50")
    model = _blank("mask_rcnn", backbone="resnet50_gc_r4")
    report = load_checkpoint(model, {f"backbone.{key}": value for key, value in plain.state_dict().items()})
    assert report.backbone_share == 1.0
    assert len(report.identities) == 13 * 8
    assert not report.missing
    assert "104 parameters not in the file, without effect before training" in report.summary()


@pytest.mark.parametrize("head", HEADS)
def test_detector_gives_its_backbone(head: str, states: dict[str, State]) -> None:
    expected = {key: value for key, value in states[head].items() if key.startswith("backbone.")}
    for source in (states[head], to_publisher(states[head])):
        backbone = build_backbone(BACKBONE)
        report = load_checkpoint(backbone, source)
        assert _same({f"backbone.{key}": value for key, value in backbone.state_dict().items()}, expected)
        assert report.backbone_share == 1.0
        assert not report.unexpected
        classifier = build_classifier(BACKBONE, num_classes=4)
        assert load_checkpoint(classifier, source).head_kept == 0


def _rows_of(state: State, name: str, layout: str, classes: int, wanted: int) -> Tensor:
    """The values of one class, by the plainest reading of the layout."""
    value = state[name]
    match layout:
        case "anchors":
            return torch.stack([value[anchor * classes + wanted] for anchor in range(len(value) // classes)])
        case "boxes":
            return torch.stack([value[4 * wanted + side] for side in range(4)])
        case _:
            return value[wanted]


@pytest.mark.parametrize("head", HEADS)
def test_classes_are_matched_by_name(head: str, states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "abc.safetensors"
    save_safetensors(path, states[head], {"class_names": ["a", "b", "c"]})
    model = _blank(head, classes=4)
    report = load_checkpoint(model, path, class_names=["c", "new", "a", "other"])
    assert (report.head_kept, report.head_new, report.head_dropped) == (2, 2, 1)
    assert "2 classes kept, 2 new, 1 dropped (by class name)" in report.summary()
    assert report.above_share == 1.0
    here = model.state_dict()
    for name, layout in class_tables(head_spec(head)).items():
        for mine, theirs in ((0, 2), (2, 0)):
            found = _rows_of(here, name, layout, 4, mine)
            assert torch.equal(found, _rows_of(states[head], name, layout, 3, theirs))
        for fresh in (1, 3):
            assert bool((_rows_of(here, name, layout, 4, fresh) == 7).all())
        if layout == "background":
            assert torch.equal(here[name][-1], states[head][name][-1])


@pytest.mark.parametrize("head", HEADS)
def test_other_number_of_classes_without_names(head: str, states: dict[str, State]) -> None:
    model = _blank(head, classes=5)
    report = load_checkpoint(model, states[head])
    assert (report.above_share, report.head_kept, report.head_new) == (1.0, 0, 5)
    for name in class_tables(head_spec(head)):
        assert bool((model.state_dict()[name] == 7).all())
    with pytest.raises(UsageError, match="2 class names were given for a head of 5 classes"):
        load_checkpoint(model, states[head], class_names=["a", "b"])


def test_names_in_mmdetections_files(states: dict[str, State], tmp_path: Path) -> None:
    """Version 2 has them beside the weights, version 3 one level further down; numpy's numbers are no code."""
    theirs = to_publisher(states["retinanet"])
    for number, meta in enumerate(
        (
            {"CLASSES": ("x", "y", "z"), "best": np.float64(0.4), "iter": np.int64(4), "config": "style='pytorch'"},
            {"dataset_meta": {"classes": ["x", "y", "z"]}},
            {"dataset_meta": {"CLASSES": ("x", "y", "z")}},
        )
    ):
        path = tmp_path / f"{number}.pth"
        torch.save({"meta": meta, "state_dict": theirs, "optimizer": {}}, path)
        model = _blank("retinanet", classes=1)
        assert load_checkpoint(model, path, class_names=["z"]).head_kept == 1
        detector = inspect_checkpoint(path).detector
        assert detector is not None
        assert detector.class_names == ["x", "y", "z"]


def test_numpys_older_names(tmp_path: Path) -> None:
    path = tmp_path / "older.pth"
    content = {"state_dict": {"x": torch.ones(2)}, "score": np.float64(0.5)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"numpy.core" in path.read_bytes()
    assert read_checkpoint(path).state["x"].tolist() == [1, 1]


def test_coco_names_of_a_file_without_any(tmp_path: Path) -> None:
    theirs = to_publisher(_blank("retinanet", classes=80).state_dict())
    torch.save({"state_dict": theirs}, tmp_path / "coco.pth")
    detector = inspect_checkpoint(tmp_path / "coco.pth").detector
    assert detector is not None
    assert detector.class_names == list(COCO_NAMES)
    assert detector.category_ids is not None
    assert detector.category_ids[-1] == 90
    report = load_checkpoint(_blank("retinanet", classes=2), theirs, class_names=["zebra", "gnu"])
    assert (report.head_kept, report.head_new, report.head_dropped) == (1, 1, 79)


# what is refused, and what `partial` does with it


def _refused(model: Detector, source: Any, message: str, hint: str) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=message) as raised:
        load_checkpoint(model, source)
    assert "\n" not in raised.value.message
    assert raised.value.hint is not None
    assert re.search(hint, raised.value.hint)
    assert _same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("here", "there", "title"), [("retinanet", "mask_rcnn", "Mask R-CNN"), ("detr", "retinanet", "RetinaNet")]
)
def test_detector_under_another_head(here: str, there: str, title: str, states: dict[str, State]) -> None:
    model = _blank(here)
    _refused(model, states[there], f"holds a {title} of {BACKBONE} .* and this is a", f"--head {there}.*--partial")
    report = load_checkpoint(model, states[there], partial=True)
    assert report.backbone_share == 1.0
    assert (report.above_loaded, report.head_kept) == (0, 0)
    assert "start fresh" in report.summary()
    assert all(bool((value == 7).all()) for value in model.head.state_dict().values())


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_other_conventions(head: str, states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_safetensors(path, states[head], {"conventions": "torchvision"})
    _refused(_blank(head), path, "the conventions of torchvision, and this one has those of papers", "--partial")
    _refused(_blank(head, conventions="torchvision"), states[head], "the conventions of papers", "conventions='papers'")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("roi_head.bbox_head.0.fc_cls.weight", "Cascade R-CNN"),
        ("rpn_head.init_proposal_bboxes.weight", "Sparse R-CNN"),
        ("bbox_head.atss_cls.weight", "ATSS"),
        ("bbox_head.gfl_cls.weight", "GFL"),
        ("bbox_head.something.weight", "another detector of mmdetection"),
        ("roi_head.bbox_head.fc_cls.weight", "Faster R-CNN"),
        ("roi_heads.box_predictor.cls_score.weight", "torchvision's Faster R-CNN"),
        ("head.regression_head.bbox_ctrness.weight", "torchvision's FCOS"),
        ("transformer.level_embed", "Deformable DETR"),
    ],
)
def test_detectors_that_are_not_built_here(name: str, title: str, states: dict[str, State], tmp_path: Path) -> None:
    body = {key: value for key, value in states["retinanet"].items() if key.startswith("backbone.")}
    source = body | {name: torch.zeros(4)}
    model = _blank("retinanet")
    _refused(model, source, f"holds .*{title}.*not a pvtctl detector", "--partial")
    assert load_checkpoint(model, source, partial=True).backbone_share == 1.0
    assert load_checkpoint(build_backbone(BACKBONE), source).backbone_share == 1.0
    save_safetensors(tmp_path / "other.safetensors", source, {})
    found = inspect_checkpoint(tmp_path / "other.safetensors")
    assert found.detector is None
    assert found.foreign is not None
    assert title in found.foreign


@pytest.mark.parametrize(("kind", "head"), [("retinanet", "retinanet"), ("maskrcnn", "mask_rcnn")])
def test_torchvisions_second_detectors(kind: str, head: str) -> None:
    from torchvision.models import detection

    with without_values():
        theirs = getattr(detection, f"{kind}_resnet50_fpn_v2")(weights=None, weights_backbone=None)
    state = {key: torch.ones(value.shape) for key, value in theirs.state_dict().items()}
    _refused(
        _blank(head, backbone="resnet50", conventions="torchvision", width=256),
        state,
        "torchvision's .* v2",
        "--partial",
    )
    assert load_checkpoint(build_backbone("resnet50"), state).backbone_share == 1.0


@pytest.mark.parametrize("head", HEADS)
def test_damaged_neck_or_head(head: str, states: dict[str, State]) -> None:
    large = max((key for key in states[head] if key.startswith("head.")), key=lambda key: states[head][key].numel())
    fewer = {key: value for key, value in states[head].items() if key.split(".")[:3] != large.split(".")[:3]}
    _refused(_blank(head), fewer, r"of another make: .* of neck and head would be loaded; not in the file", "--partial")
    more = states[head] | {"head.extra.weight": torch.zeros(3)}
    _refused(_blank(head), more, r"without a place here: head\.extra\.weight \(3\)", "--partial")
    assert load_checkpoint(_blank(head), more, partial=True).above_share == 1.0
    less_backbone = {key: value for key, value in states[head].items() if ".stages.3." not in key}
    _refused(_blank(head), less_backbone, "of the backbone's parameters would be loaded", "--partial")


def test_other_number_of_queries(states: dict[str, State]) -> None:
    _refused(_blank("detr", num_queries=50), states["detr"], "head.query_embed.weight", "num_queries=100")


def test_nan_is_reported(states: dict[str, State]) -> None:
    bad = dict(states["retinanet"])
    bad["neck.inner_blocks.0.0.bias"] = torch.full((32,), torch.nan)
    report = load_checkpoint(_blank("retinanet"), bad)
    assert report.nonfinite == ["neck.inner_blocks.0.0.bias"]
    assert "NaN or infinity in neck.inner_blocks.0.0.bias" in report.summary()


def test_resnets_of_caffes_style(states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "caffe.pth"
    config = "backbone=dict(type='ResNet', depth=50, style='caffe')"
    torch.save({"meta": {"config": config}, "state_dict": states["retinanet"]}, path)
    _refused(_blank("retinanet"), path, "ResNet of caffe's style", "a plain ResNet.*--partial")
    assert load_checkpoint(_blank("retinanet"), path, partial=True).above_share == 1.0


def test_dilated_resnets(states: dict[str, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DETR-DC5: told by the arguments that its training writes beside the weights, or by the published files' hashes."""
    path = tmp_path / "dc5.pth"
    theirs = to_publisher(states["detr"])
    for dilation in (True, False):
        torch.save({"model": theirs, "args": argparse.Namespace(dilation=dilation)}, path)
        if dilation:
            _refused(_blank("detr"), path, r"a dilated last stage \(DETR-DC5\)", "--partial")
        else:
            assert load_checkpoint(_blank("detr"), path).above_share == 1.0
    monkeypatch.setattr(names_detr, "DILATED_SHA256", (sha256_of(path)[:8],))
    _refused(_blank("detr"), path, "DETR-DC5", "--partial")
