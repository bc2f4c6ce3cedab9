"""`pvtctl visualize features | predictions | curves | augmentations`: what is written, and how bad input is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import Cli

from pvtctl.data.scenes.scene import SEMANTIC_CLASSES
from pvtctl.explain.backbone import PyramidPredictor
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.weights.save import save_safetensors

BACKBONE = "pvt_v2_b0@0.25"
LONG = "a_photo_whose_name_has_more_than_forty_letters.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 255, (48, 80, 3), np.uint8)).save(folder / LONG)
    (folder / "broken.png").write_bytes(b"\x89PNG no")
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained segmenter and metric depth model of 64 pixels. Read only."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    names = list(SEMANTIC_CLASSES)
    sizes = {"segmentation": {"test_short_side": 64, "test_long_side": 128, "align": 32}}
    narrow = {"width": 32}
    own = {"backbone": BACKBONE, "head": "semantic_fpn", "head_options": narrow, "class_names": names}
    model = build_segmenter(BACKBONE, "semantic_fpn", num_classes=len(names), head_options=narrow)
    save_safetensors(folder / "maps.safetensors", model, own | sizes)
    depth = {"backbone": BACKBONE, "head": "midas", "head_options": narrow}
    depth |= {"depth": {"test_size": [64, 64], "multiple": 32}}
    model = build_depth_model(BACKBONE, "midas", head_options=narrow)
    save_safetensors(folder / "depth.safetensors", model, depth | {"scale_shift": [1.0, 0.1]})
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 64 pixels in the layouts of ADE20K and NYUv2, two images a split. Read only."""
    from pvtctl.cli.main import main

    folder = tmp_path_factory.mktemp("sets")
    for layout, name in (("ade20k", "streets"), ("nyu", "rooms")):
        sizes = ["--train", "2", "--val", "2", "--size", "64"]
        assert main(["data", "export", "scenes", "--layout", layout, "--to", str(folder / name), *sizes]) == 0
    return folder


def pictures(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.draws
def test_features_of_a_folder(cli: Cli, photos: Path, smoke_run: Path) -> None:
    result = cli("visualize", "features", photos, "--weights", smoke_run, "--out", "f", "--size", "64")
    assert result.code == 0, result.err
    assert "skipped broken.png" in result.err
    stem = LONG.removesuffix(".png")
    assert pictures(Path("f")) == [f"{stem}.png", "grey.png", "index.html"]
    again = cli("visualize", "features", photos, "--weights", smoke_run, "--out", "g", "--size", "64", "--json")
    assert [level["name"] for level in again.json["levels"]] == ["C2", "C3", "C4", "C5"]
    assert all(0 < level["variance_share"] <= 1 for level in again.json["levels"])
    assert Path("f/grey.png").read_bytes() == Path("g/grey.png").read_bytes()


def test_levels_of_a_neck(cli: Cli, photos: Path, detector_run: Path, dense: Path) -> None:
    arguments = ("visualize", "features", photos / "grey.png", "--size", "64", "--weights")
    result = cli(*arguments, detector_run, "--level", "c3,P7", "--out", "p.svg", "--json")
    assert result.code == 0, result.err
    assert [level["name"] for level in result.json["levels"]] == ["C3", "P7"]
    assert Path("p.svg").read_text().startswith("<?xml")
    wrong = cli(*arguments, detector_run, "--level", "P2")
    assert wrong.code == 2
    assert "no level 'P2'" in wrong.err
    assert "C2, C3, C4, C5, P3, P4, P5, P6, P7" in wrong.err
    assert "the model has no neck" in cli(*arguments, dense / "depth.safetensors", "--level", "P4").err
    assert cli(*arguments, dense / "maps.safetensors", "--level", "P5", "--out", "m.png").code == 0


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_backbone_is_looked_at_as_it_is(tmp_path: Path, stride: int) -> None:
    torch.manual_seed(0)
    dilated = {"output_stride": stride}
    head = {"width": 16, "auxiliary_weight": 0.0}
    model = build_segmenter(
        "resnet50c@0.25", "deeplabv3plus", num_classes=3, head_options=head, backbone_options=dilated
    )
    meta = dilated | {
        "backbone": "resnet50c@0.25",
        "head": "deeplabv3plus",
        "head_options": head,
        "class_names": ["a", "b", "c"],
    }
    save_safetensors(tmp_path / "m.safetensors", model, meta)
    use = PyramidPredictor(tmp_path / "m.safetensors", None, torch.device("cpu"), size=64)
    pixels = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        own = model.eval().backbone(use.batch_of(pixels))
    seen = use.maps(pixels)
    assert seen["C5"].shape[1:] == (64 // stride, 64 // stride)
    for name, features in zip(use.levels, own, strict=True):
        assert torch.equal(torch.from_numpy(seen[name]), features[0])


# --- predictions ------------------------------------------------------------------------------------------------------


def test_predictions_of_a_classifier_and_a_detector(cli: Cli, smoke_run: Path, detector_run: Path) -> None:
    words = ["--pick", "worst", "--count", "2", "--format", "svg", "--out", "w"]
    worst = cli("visualize", "predictions", smoke_run, *words, "--json")
    assert worst.code == 0, worst.err
    best = cli("visualize", "predictions", smoke_run, "--pick", "best", "--count", "12", "--out", "b", "--json")
    ids = [each["id"] for each in best.json["pictures"]]
    assert [each["id"] for each in worst.json["pictures"]] == ids[:-3:-1]
    assert pictures(Path("w")) == sorted([*(f"{name}.svg" for name in ids[-2:]), "index.html"])
    found = cli("visualize", "predictions", detector_run, "--count", "1", "--out", "d.svg", "--score-threshold", "0")
    assert found.code == 0, found.err
    assert "<image " in Path("d.svg").read_text()
    trained = cli("visualize", "predictions", detector_run, "--split", "train", "--count", "1", "--out", "t", "--json")
    assert trained.json["pictures"][0]["id"].startswith("train_")


@pytest.mark.parametrize(("model", "name", "measure"), [("maps", "streets", "mean IoU"), ("depth", "rooms", "AbsRel")])
def test_predictions_of_dense_models(
    cli: Cli, dense: Path, export: Path, photos: Path, model: str, name: str, measure: str
) -> None:
    weights = ("--weights", dense / f"{model}.safetensors")
    words = [*weights, "--pick", "random", "--format", "svg", "--out", "a"]
    result = cli("visualize", "predictions", export / name, *words, "--json")
    assert result.code == 0, result.err
    assert len(result.json["pictures"]) == 2
    assert all(measure in each["verdict"] for each in result.json["pictures"])
    plain = cli("visualize", "predictions", photos, *weights, "--out", "b")
    assert plain.code == 0, plain.err
    assert "skipped broken.png" in plain.err
    assert "index.html" in pictures(Path("b"))


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curves_over_each_axis(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    running = tmp_path / "runs" / "cut" / "seed1"
    shutil.copytree(smoke_run, running)
    info = json.loads((running / "run.json").read_text())
    (running / "run.json").write_text(json.dumps(info | {"status": "running"}))
    with (running / "metrics.jsonl").open("a") as file:
        file.write('{"event": "tra')
    shutil.copytree(smoke_run, tmp_path / "runs" / "whole" / "seed1")
    xs = {}
    for axis in ("steps", "epochs", "images", "time"):
        picture = f"{axis}.{'svg' if axis == 'steps' else 'png'}"  # a PNG of tests is white
        result = cli("visualize", "curves", "runs", "--x", axis, "--out", picture, "--json")
        assert result.code == 0, result.err
        assert "cut/seed1 has not finished (running)" in result.err
        assert "is damaged in line 9, which is left out" in result.err
        assert [run["name"] for run in result.json["runs"]] == ["cut/seed1", "whole/seed1"]
        panels: list[dict[str, Any]] = result.json["pictures"][0]["panels"]
        assert [panel["title"].split(" on ")[0] for panel in panels] == [
            "Training loss",
            "Top-1 accuracy",
            "Learning rate",
        ]
        xs[axis] = panels[1]["curves"][0][axis]
    assert xs["epochs"] == [1.0, 2.0]
    assert xs["steps"] == [3, 6]
    total = 1000 * xs["images"][0] / xs["steps"][0]
    assert total == pytest.approx(round(total))
    assert xs["time"][0] <= xs["time"][1] < 1


def test_curves_of_several_tasks(cli: Cli, smoke_run: Path, detector_run: Path) -> None:
    result = cli("visualize", "curves", smoke_run, detector_run)
    assert result.code == 2
    assert "classification (imagenet_pvt_v2-pvt_v2_b0-smoke), detection (detector)" in result.err
    assert cli("visualize", "curves", smoke_run, detector_run, "--only", "loss", "--out", "loss.png").code == 0


# --- augmentations ----------------------------------------------------------------------------------------------------


def test_augmentations_are_those_of_the_run(cli: Cli, smoke_run: Path) -> None:
    command = ("visualize", "augmentations", "scenes", "--recipe", smoke_run / "recipe.yaml", "--count", "2")
    mixing = ("--set", "data.augment.mixup_alpha=0.8")
    first = cli(*command, *mixing, "--draws", "2", "--out", "a", "--json")
    assert first.code == 0, first.err
    assert pictures(Path("a")) == ["index.html", "mixed.png", "train_000000.png", "train_000023.png"]
    assert first.json["epochs"] == [0, 1]
    cli(*command, *mixing, "--draws", "2", "--out", "b")
    cli(*command, *mixing, "--draws", "2", "--out", "c", "--seed", "5")
    assert Path("a/train_000000.png").read_bytes() == Path("b/train_000000.png").read_bytes()
    assert Path("a/train_000000.png").read_bytes() != Path("c/train_000000.png").read_bytes()


@pytest.mark.parametrize("recipe", ["coco_mask_rcnn_1x", "ade20k_semantic_fpn", "dpt_nyu"])
def test_augmentations_move_the_truth_along(cli: Cli, recipe: str) -> None:
    few = ("--profile", "smoke", "--set", "data.name=scenes", "--set", "data.train_samples=2")
    result = cli("visualize", "augmentations", "scenes", "--recipe", recipe, *few, "--count", "1", "--out", "t.png")
    assert result.code == 0, result.err
    with Image.open("t.png") as sheet:
        assert sheet.width == 10 + 5 * 410


def test_augmentations_of_single_images(cli: Cli, photos: Path) -> None:
    recipes = ("--recipe", "imagenet_pvt_v1", "--recipe", "coco_retinanet_1x", "--recipe", "dpt_ade20k")
    result = cli("visualize", "augmentations", photos, *recipes, "--recipe", "dpt_nyu", "--draws", "1", "--out", "s")
    assert result.code == 0, result.err
    assert "skipped broken.png" in result.err
    assert "mixed.png" in pictures(Path("s"))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["features", "photos"], "which model?"),
        (["features", "nowhere", "--backbone", BACKBONE], "no file or folder nowhere"),
        (["features", "photos/broken.png", "--backbone", BACKBONE], "the image could not be read; broken.png"),
        (["features", "photos", "--backbone", BACKBONE, "--out", "photos"], "--out photos is there already"),
        (["features", "photos", "--backbone", BACKBONE, "--out", "x.png"], "there will be 3 pictures"),
        (["predictions"], "which model?"),
        (["predictions", "photos/grey.png"], "photos/grey.png is not a model"),
        (["predictions", "RUN", "photos/grey.png", "--pick", "worst"], "--pick is for data with ground truth"),
        (["predictions", "RUN", "--split", "test"], "no split 'test'"),
        (["predictions", "RUN", "nowhere.png"], "no file or folder nowhere.png"),
        (["curves", "photos"], "there is no run in photos"),
        (["curves", "nowhere"], "there is no folder nowhere"),
        (["curves", "RUN", "RUN"], "is named twice"),
        (["augmentations", "photos"], "--recipe is missing"),
        (["augmentations", "photos", "--recipe", "imagenet_pvt_v3"], "imagenet_pvt_v3"),
        (["augmentations", "photos", "--recipe", "imagenet_pvt_v1", "--count", "2"], "--count is for data"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(
    cli: Cli, photos: Path, smoke_run: Path, arguments: list[str], error: str
) -> None:
    result = cli("visualize", *(str(smoke_run) if each == "RUN" else each for each in arguments))
    assert result.code in (1, 2)
    (line,) = [each for each in result.err.splitlines() if each.startswith("error: ")]
    assert error in line
    assert "hint: " in result.err
    assert not Path("runs").exists(), "nothing is written"
    assert pictures(photos) == sorted(["broken.png", "grey.png", LONG])


@pytest.mark.parametrize(("missing", "told"), [("recipe.yaml", "only half there"), ("run.json", "only half written")])
def test_half_a_run_is_told(cli: Cli, smoke_run: Path, tmp_path: Path, missing: str, told: str) -> None:
    half = tmp_path / "half"
    shutil.copytree(smoke_run, half, ignore=shutil.ignore_patterns(missing, "checkpoints"))
    result = cli("visualize", "predictions", str(half))
    assert result.code == 2
    assert told in result.err
    assert "fetching" not in result.err


def test_images_that_ask_to_be_turned_are_told(cli: Cli, tmp_path: Path) -> None:
    asking = Image.Exif()
    asking[0x0112] = 6
    Image.new("RGB", (48, 64), "teal").save(tmp_path / "turned.jpg", exif=asking)
    for command in ("attention", "features"):
        out = tmp_path / f"{command}.png"
        result = cli(
            "visualize",
            command,
            str(tmp_path / "turned.jpg"),
            "--backbone",
            "pvt_v2_b0",
            "--size",
            "64",
            "--out",
            str(out),
        )
        assert (result.code, out.is_file()) == (0, True)
        assert "1 image has an EXIF rotation" in result.err
