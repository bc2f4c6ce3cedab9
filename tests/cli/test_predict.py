"""`pvtctl predict`: which images, what is written and printed, and how bad input is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import stand_in_engine
import torch
from PIL import Image
from tiny_run import Cli

import pvtctl
from pvtctl.models.backbones import build_classifier
from pvtctl.models.detector import Detector, build_detector
from pvtctl.tasks.predict import find_images
from pvtctl.weights.save import save_safetensors

NAMES = ["ant", "bee"]
SIDES = ["--short-side", "64", "--long-side", "96"]


def sure(model: Detector) -> Detector:
    """The same DETR, certain that it sees bees."""
    with torch.no_grad():
        model.head.class_embed.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))  # type: ignore[union-attr, operator]
    return model


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = sure(build_detector("pvt_v2_b0@0.25", "detr", num_classes=2, num_queries=5))
    meta: dict[str, Any] = {
        "task": "detection",
        "backbone": "pvt_v2_b0@0.25",
        "head": "detr",
        "class_names": NAMES,
        "category_ids": [3, 7],
        "detection": {"test_short_side": 64, "test_long_side": 96},
    }
    path = tmp_path_factory.mktemp("weights") / "bees.safetensors"
    save_safetensors(path, model, meta)
    return path


@pytest.fixture(scope="module")
def mask_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_detector("pvt_v2_b0@0.25", "mask_rcnn", num_classes=2, width=32)
    with torch.no_grad():
        model.head.box_predictor.cls_score.bias.copy_(torch.tensor([0.0, 3.0, 0.0]))  # type: ignore[union-attr, operator]
    path = tmp_path_factory.mktemp("weights") / "masks.safetensors"
    save_safetensors(path, model, {"backbone": "pvt_v2_b0@0.25", "class_names": NAMES})
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for at, name in enumerate(("frame10.jpg", "frame2.jpg", "more/frame1.png")):
        Image.new("RGB", (90 - 20 * at, 60 + 10 * at), (40 * at, 90, 200)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_is_drawn_and_told(cli: Cli, detector: Path, photos: Path, tmp_path: Path) -> None:
    result = cli("predict", photos, "--weights", detector)
    assert result.code == 0, result.err
    assert "3 images at a short side of 64" in result.err
    assert re.search(r"bee\W+15\W+3\W+0\.", result.out)
    out = tmp_path / "runs" / "predict-bees.safetensors-photos"
    assert f"detections: {out.relative_to(tmp_path) / 'detections.json'}" in result.out
    results = json.loads((out / "detections.json").read_text())
    ids = json.loads((out / "images.json").read_text())
    assert [(each["id"], each["file_name"]) for each in ids["images"]] == [
        (1, "frame2.jpg"),
        (2, "frame10.jpg"),
        (3, "more/frame1.png"),
    ]
    assert ids["categories"] == [{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}]
    assert len(results) == 15
    assert {each["category_id"] for each in results} == {7}
    for each in results:
        image = ids["images"][each["image_id"] - 1]
        left, top, width, height = each["bbox"]
        assert 0 <= left <= left + width <= image["width"] + 0.01
        assert 0 <= top <= top + height <= image["height"] + 0.01
    for image in ids["images"]:
        with Image.open(out / "images" / image["file_name"]) as drawn, Image.open(photos / image["file_name"]) as plain:
            assert drawn.size[0] >= plain.size[0]
    assert cli("predict", photos / "frame2.jpg", "--weights", detector).code == 0
    assert cli("predict", photos / "frame2.jpg", "--weights", detector).code == 0
    assert (tmp_path / "runs" / "predict-bees.safetensors-frame2.jpg-2" / "detections.json").is_file()


def test_the_threshold_is_for_pictures_and_counts(cli: Cli, detector: Path, photos: Path, tmp_path: Path) -> None:
    result = cli("predict", photos, "--weights", detector, "--score-threshold", "1", "--out", tmp_path / "new")
    assert result.code == 0, result.err
    assert "0 objects" in result.out
    assert "the best score is 0." in result.err
    assert len(json.loads((tmp_path / "new" / "detections.json").read_text())) == 15


def test_json_alone_writes_nothing(cli: Cli, detector: Path, photos: Path, tmp_path: Path) -> None:
    result = cli("predict", str(photos / "*.jpg"), "--weights", detector, "--json", "--max-detections", "2", *SIDES)
    assert result.code == 0, result.err
    document = result.json
    assert document["counts"] == {"bee": 4}
    assert [Path(image["file"]).name for image in document["images"]] == ["frame2.jpg", "frame10.jpg"]
    assert {tuple(each) for image in document["images"] for each in image["detections"]} == {("class", "score", "box")}
    assert document["files"] == {}
    assert not (tmp_path / "runs").exists()


def test_another_engine_finds_the_same(cli: Cli, detector: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stand_in_engine.put_in(monkeypatch)
    words = ["predict", photos, "--weights", detector, "--json", *SIDES]
    result, plain = cli(*words, "--engine", "onnxruntime"), cli(*words)
    assert result.code == 0, result.err
    assert engine.seen == 3
    assert ", by onnxruntime" in result.err
    found, expected = result.json, plain.json
    assert (found.pop("engine"), expected.pop("engine")) == ("onnxruntime", "torch")
    assert found == expected
    run = pvtctl.load_run(detector, engine="onnxruntime")
    for _ in range(2):
        run.predict(photos / "frame2.jpg")
    assert engine.seen == 5
    result = cli(*words, "--engine", "auto")
    assert result.json == plain.json
    assert "engine: torch, since " in result.err


def test_masks_reach_the_results(cli: Cli, mask_detector: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", photos / "frame2.jpg", "--weights", mask_detector, "--out", tmp_path / "new", *SIDES)
    result = cli(*command, "--score-threshold", "0.01", "--max-detections", "3")
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "new" / "detections.json").read_text())
    assert len(results) == 3
    assert all(each["segmentation"]["size"] == [70, 70] and each["segmentation"]["counts"] for each in results)
    assert all(each["category_id"] in (1, 2) for each in results)


def test_files_named_as_cocos_keep_its_ids(tmp_path: Path) -> None:
    for name in ("000000000139.jpg", "000000000285.jpg"):
        (tmp_path / name).touch()
    assert find_images([str(tmp_path)]).ids == [139, 285]
    (tmp_path / "other.jpg").touch()
    assert find_images([str(tmp_path)]).ids == [1, 2, 3]
    # named twice, seen once
    images = find_images([str(tmp_path), str(tmp_path / "other.jpg"), str(tmp_path / "*.jpg")])
    assert len(images.names) == 3


def test_what_is_no_image_is_skipped_and_told(cli: Cli, detector: Path, photos: Path) -> None:
    (photos / "frame3.jpg").write_bytes(b"\xff\xd8 broken")
    result = cli("predict", photos, "--weights", detector, "--json")
    assert result.code == 0, result.err
    assert "skipped frame3.jpg: " in result.err
    assert list(result.json["skipped"]) == ["frame3.jpg"]
    assert [image["id"] for image in result.json["images"]] == [1, 3, 4]
    result = cli("predict", photos / "frame3.jpg", photos / "notes.txt", "--weights", detector)
    assert result.code == 2
    assert "error: none of the 2 images could be read; frame3.jpg: " in result.err
    assert not Path("runs").exists()


def test_a_turned_photo_is_taken_as_it_is_shown(cli: Cli, detector: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 60)).save(tmp_path / "turned.jpg", exif=exif)
    result = cli("predict", tmp_path / "turned.jpg", "--weights", detector, "--json")
    assert (result.json["images"][0]["height"], result.json["images"][0]["width"]) == (90, 60)
    assert "1 image has an EXIF rotation, which is applied" in result.err


def test_interrupted_it_keeps_what_it_saw(
    cli: Cli, detector: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvtctl.tasks import predict

    whole = predict.read_pixels
    monkeypatch.setattr(
        predict, "read_pixels", lambda path, *more: whole(path, *more) if path.name == "frame2.jpg" else interrupt()
    )
    result = cli("predict", photos, "--weights", detector, "--out", tmp_path / "new")
    assert result.code == 130
    assert len(json.loads((tmp_path / "new" / "detections.json").read_text())) == 5
    assert [each["file_name"] for each in json.loads((tmp_path / "new" / "images.json").read_text())["images"]] == [
        "frame2.jpg"
    ]
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == [
        "detections.json",
        "frame2.jpg",
        "images",
        "images.json",
    ]


def interrupt() -> Any:
    raise KeyboardInterrupt


def test_a_classifier_names_five_classes(cli: Cli, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = [f"kind{at}" for at in range(7)]
    weights = tmp_path / "kinds.safetensors"
    meta = {"backbone": "pvt_v2_b0@0.25", "class_names": names, "image_size": 64, "resize": 72}
    save_safetensors(weights, build_classifier("pvt_v2_b0@0.25", num_classes=7), meta)
    result = cli("predict", photos, "--weights", weights, "--json")
    assert result.code == 0, result.err
    assert len(result.json["images"]) == 3
    for image in result.json["images"]:
        scores = [each["score"] for each in image["classes"]]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
    result = cli("predict", photos, "--weights", weights)
    assert result.code == 0, result.err
    assert re.search(r"frame2\.jpg\W+kind\d \d+\.\d %", result.out)
    result = cli("predict", photos, "--weights", weights, "--nms-iou", "0.5")
    assert result.code == 2
    assert "--nms-iou is for detection" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["photos"], 2, "predict needs --weights"),
        (["nowhere", "--weights", "W"], 2, "no file or folder nowhere"),
        (["/dev/null", "--weights", "W"], 2, "/dev/null is a device, not a file or folder"),
        (["", "--weights", "W"], 2, "an empty name for an image"),
        ([" ", "--weights", "W"], 2, "an empty name for an image"),
        (["empty", "--weights", "W"], 2, "no image in the folder empty"),
        (["photos", "--weights", "missing.safetensors"], 2, "missing.safetensors"),
        (["photos", "--weights", "W", "--out", "photos"], 2, "--out photos is there already"),
        (["photos", "--weights", "W", "--nms-iou", "0.5"], 2, "DETR has no non-maximum suppression"),
        (["photos", "--weights", "W", "--score-threshold", "2"], 2, "--score-threshold"),
        (["photos", "--weights", "W", "--short-side", "96", "--long-side", "64"], 2, "shorter than the short side"),
        (["photos", "--weights", "W", "--device", "abacus"], 2, "no device 'abacus'"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(
    cli: Cli, detector: Path, photos: Path, arguments: list[str], code: int, error: str
) -> None:
    (photos.parent / "empty").mkdir()
    result = cli("predict", *(str(detector) if each == "W" else each for each in arguments))
    assert result.code == code
    (line,) = [each for each in result.err.splitlines() if each.startswith("error: ")]
    assert error in line
    assert "hint: " in result.err
    assert not Path("runs").exists()
