"""`pvtctl eval` of segmentation and depth: every option that is said is followed or refused, in one line with a hint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tiny_run import Cli, Result

from pvtctl.cli.main import main
from pvtctl.data.scenes.scene import SEMANTIC_CLASSES
from pvtctl.models.backbones import build_classifier
from pvtctl.models.dense import build_depth_model, build_segmenter
from pvtctl.weights.save import save_safetensors

BACKBONE = "pvt_v2_b0@0.25"
NOT_ALIGNED = "inverse depth of an unknown scale cannot be scored without alignment"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained models: segmenter, relative and metric depth, classifier. Read only."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    names = list(SEMANTIC_CLASSES)
    own = {"backbone": BACKBONE, "head": "deeplabv3plus", "head_options": {"width": 16}, "class_names": names}
    segmenter = build_segmenter(BACKBONE, "deeplabv3plus", num_classes=len(names), head_options={"width": 16})
    sizes = {"test_short_side": 64, "test_long_side": 128, "align": 32}
    save_safetensors(folder / "segmenter.safetensors", segmenter, own | {"segmentation": sizes})
    depth = {
        "backbone": BACKBONE,
        "head": "dpt",
        "head_options": {"width": 32},
        "depth": {"test_size": [64, 64], "multiple": 32},
    }
    model = build_depth_model(BACKBONE, "dpt", head_options={"width": 32})
    save_safetensors(folder / "relative.safetensors", model, depth)
    save_safetensors(folder / "metric.safetensors", model, depth | {"scale_shift": [1.0, 0.1]})
    classifier = build_classifier(BACKBONE, num_classes=3, image_size=64)
    save_safetensors(
        folder / "classifier.safetensors", classifier, {"backbone": BACKBONE, "class_names": ["a", "b", "c"]}
    )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in the layouts of ADE20K (`streets`) and NYUv2 (`rooms`): two validation images each. Read only."""
    folder = tmp_path_factory.mktemp("data")
    for layout, name in (("ade20k", "streets"), ("nyu", "rooms")):
        sizes = ["--train", "1", "--val", "2", "--size", "64"]
        assert main(["data", "export", "scenes", "--layout", layout, "--to", str(folder / name), *sizes]) == 0
    return folder


@pytest.fixture
def score(cli: Cli, weights: Path) -> Cli:
    """Score weights by their name on two tiny scenes, into JSON."""
    few = ["--profile", "smoke", "--set", "data.val_samples=2", "--json"]

    def run(name: str, *options: str | Path) -> Result:
        return cli("eval", "scenes", "--weights", weights / f"{name}.safetensors", *few, *options)

    return run


def test_a_segmenter_is_scored_as_it_was_tested(score: Cli) -> None:
    plain = score("segmenter")
    assert plain.code == 0, plain.err
    assert plain.json["data"]["images"] == plain.json["metrics"]["images"] == 2
    assert (plain.json["data"]["test_short_side"], plain.json["data"]["test_long_side"]) == (64, 128)
    assert 0 <= plain.json["metrics"]["miou"] < 0.3
    whole = score("segmenter", "--window", "64", "--stride", "32")
    assert whole.json["metrics"] == plain.json["metrics"], "one window takes the whole image"
    assert "windows of 64x64" in whole.err
    windows = score("segmenter", "--window", "48", "--stride", "16")
    assert windows.json["metrics"]["miou"] != plain.json["metrics"]["miou"]


def test_ratios_and_the_mirror_are_said(score: Cli) -> None:
    result = score("segmenter", "--ratios", "0.5,1", "--flip")
    assert result.code == 0, result.err
    assert "(x 0.5, x 1), mirrored too" in result.err


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "96"],
        ["--set", "data.segmentation.test_short_side=96", "--set", "data.segmentation.test_long_side=192"],
        ["--set", "data.segmentation={test_short_side: 96, test_long_side: 192}"],
    ],
)
def test_a_size_is_followed_however_it_is_said(score: Cli, options: list[str]) -> None:
    result = score("segmenter", *options)
    assert result.code == 0, result.err
    assert (result.json["data"]["test_short_side"], result.json["data"]["test_long_side"]) == (96, 192)


@pytest.mark.parametrize("options", [["--size", "96x64"], ["--set", "data.depth.test_size=[96, 64]"]])
def test_a_size_of_depth_is_followed_however_it_is_said(score: Cli, options: list[str]) -> None:
    result = score("relative", *options)
    assert result.code == 0, result.err
    assert result.json["data"]["test_size"] == [96, 64]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("segmenter", "model.head.width=32", "model.head.width is not followed: it is 16"),
        ("segmenter", "model.backbone.name=pvt_tiny", "model.backbone.name is not followed: it is pvt_v2_b0"),
        ("relative", "model.head.scale_shift=[1, 0.1]", "model.head.scale_shift is not followed: it is None"),
        ("segmenter", "train.epochs=3", "nothing is trained here"),
        ("segmenter", "data.segmentatoin.align=1", "did you mean segmentation?"),
        ("segmenter", "data.depth.scale=1000", "is for depth, segmentation reads data.segmentation"),
        ("segmenter", "nonsense", "write it as key.path=value"),
    ],
)
def test_a_setting_that_could_not_be_followed_is_refused(score: Cli, name: str, override: str, message: str) -> None:
    result = score(name, "--set", override)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("error:") == result.err.count("hint:") == 1


def test_relative_depth_is_aligned_by_itself_and_the_space_is_said(score: Cli) -> None:
    plain, asked = score("relative"), score("relative", "--alignment", "scale_shift")
    assert plain.code == 0, plain.err
    assert plain.json["metrics"] == asked.json["metrics"]
    assert "inverse depth, aligned to each image's truth by scale and shift" in plain.json["notes"][0]
    assert "starts fresh" not in plain.err
    median = score("relative", "--alignment", "median")
    assert median.json["metrics"]["abs_rel"] != plain.json["metrics"]["abs_rel"]


@pytest.mark.parametrize("options", [["--alignment", "none"], ["--set", "eval.alignment=none"]])
def test_relative_depth_is_not_scored_as_if_it_were_metres(score: Cli, options: list[str]) -> None:
    result = score("relative", *options)
    assert result.code == 2
    assert NOT_ALIGNED in result.err
    assert "--alignment" in result.err.partition("hint:")[2]


def test_a_scale_and_shift_makes_relative_depth_metric(score: Cli) -> None:
    metric, made = score("metric"), score("relative", "--scale-shift", "1,0.1")
    assert made.code == 0, made.err
    assert made.json["metrics"] == metric.json["metrics"]
    assert "metric depth, not aligned" in made.json["notes"][0]
    other = score("metric", "--scale-shift", "2,0.1")
    assert "the file's metres are made with the scale_shift 1, 0.1; this model has 2, 0.1" in other.err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("segmenter", ["--ratios", "a"], "--ratios 'a' are not numbers"),
        ("segmenter", ["--ratios", "1,,2"], "--ratios '1,,2' are not numbers"),
        ("segmenter", ["--ratios", "0.01"], "--ratios '0.01' are out of range"),
        ("segmenter", ["--ratios", "nan"], "--ratios 'nan' are not numbers"),
        ("segmenter", ["--window", "x"], "'x' is not a size"),
        ("segmenter", ["--window", "8"], "'8' is out of range"),
        ("segmenter", ["--window", "48", "--stride", "0"], "'0' is out of range"),
        ("segmenter", ["--stride", "32"], "eval.stride: needs eval.window"),
        ("segmenter", ["--window", "48", "--stride", "64"], "64x64 is larger than the window of 48x48"),
        ("segmenter", ["--alignment", "none"], "--alignment is for depth"),
        ("segmenter", ["--max-depth", "3"], "--max-depth is for depth"),
        ("segmenter", ["--depth-crop", "garg"], "--depth-crop is for depth"),
        ("segmenter", ["--scale-shift", "1,0"], "--scale-shift is for depth"),
        ("segmenter", ["--scales", "64"], "--scales is for detection"),
        ("segmenter", ["--resize", "64"], "--resize is for classifiers"),
        ("segmenter", ["--task", "depth"], "for segmentation, not a model for depth"),
        ("segmenter", ["--head", "dpt"], "under deeplabv3plus for segmentation, not a dpt"),
        ("relative", ["--window", "64"], "--window is for segmentation"),
        ("relative", ["--alignment", "nearest"], "one of: auto, none, median, scale_shift"),
        ("relative", ["--depth-crop", "center"], "one of: none, eigen, garg"),
        ("relative", ["--max-depth", "-1"], "should be greater than 0"),
        ("relative", ["--scale-shift", "1"], "is not a scale above 0 and a shift"),
        ("relative", ["--scale-shift", "0,1"], "is not a scale above 0 and a shift"),
        ("relative", ["--scale-shift", "a,b"], "are not numbers"),
        ("metric", ["--max-depth", "0.0001"], "is 0.0001 m, not above min_depth"),
        ("classifier", ["--ratios", "1"], "--ratios is for segmentation and depth"),
        ("classifier", ["--task", "segmentation"], "for classification, not a model for segmentation"),
    ],
)
def test_what_makes_no_sense_is_refused(score: Cli, name: str, options: list[str], message: str) -> None:
    result = score(name, *options)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("error:") == result.err.count("hint:") == 1
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("classifier", "streets", "for classification, and .*streets has label maps, not class folders"),
        ("relative", "streets", "for depth, and .*streets has label maps, not depth maps"),
        ("segmenter", "rooms", "for segmentation, and .*rooms has depth maps, not label maps"),
    ],
)
def test_weights_of_another_task_than_the_data(
    cli: Cli, weights: Path, data: Path, name: str, folder: str, message: str
) -> None:
    result = cli("eval", data / folder, "--weights", weights / f"{name}.safetensors")
    assert result.code == 2
    assert re.search(message, result.err)
    assert result.err.count("error:") == result.err.count("hint:") == 1
    if name == "classifier":
        assert "pvtctl finetune" in result.err.partition("hint:")[2]


def test_folders_are_scored_whole_with_a_report(cli: Cli, weights: Path, data: Path) -> None:
    result = cli("eval", data / "streets", "--weights", weights / "segmenter.safetensors", "--out", "report")
    assert result.code == 0, result.err
    assert "2 images of 15 classes" in result.err
    assert Path("report/report.html").is_file()
    assert Path("report/classes.csv").is_file()
    few = ["--json", "--set", "data.val_samples=1"]
    one = cli("eval", data / "streets", "--weights", weights / "segmenter.safetensors", *few)
    assert one.json["metrics"]["images"] == 1


def test_a_head_of_other_classes_is_refused_with_their_names(cli: Cli, weights: Path, data: Path) -> None:
    (copy := Path("streets")).mkdir()
    for part in ("images", "annotations"):
        (copy / part).symlink_to(data / "streets" / part)
    (copy / "classes.txt").write_text("\n".join(f"thing {at}" for at in range(15)))
    result = cli("eval", "streets", "--weights", weights / "segmenter.safetensors")
    assert result.code == 2
    assert "15 of the data's 15 classes are not among the model's 15: thing 0" in result.err
    assert "pvtctl finetune" in result.err


def test_relative_depth_is_scored_on_a_folder_of_metres(cli: Cli, weights: Path, data: Path) -> None:
    result = cli("eval", data / "rooms", "--weights", weights / "relative.safetensors", "--json", "--max-depth", "20")
    assert "rules of nyu that are not used" in result.err
    assert 'eval.crop "eigen"' in result.err
    assert result.code == 0, result.err
    assert "scale and shift" in result.json["notes"][0]
    assert "to 20 m" in result.json["notes"][0]


def test_a_run_is_scored_as_it_scored_itself(cli: Cli) -> None:
    out = Path("run")
    settings = ["--profile", "smoke", "--set", "train.max_steps=2", "--set", "train.ema.enabled=false"]
    head = ["--head", "deeplabv3plus", "--set", "model.head.width=16", "--set", "data.val_samples=2"]
    options = ["--backbone", BACKBONE, "--weights", "none", *settings, *head]
    made = cli("finetune", "scenes", "--out", out, *options)
    assert made.code == 0, made.err
    again = cli("eval", out, "--json")
    assert again.code == 0, again.err
    best = cli("eval", "scenes", "--weights", out, "--json")
    assert best.json["metrics"] == again.json["metrics"]
    assert again.json["data"]["images"] == 2
    assert cli("eval", out, "--profile", "mini").code == 2
    assert cli("eval", out, "--set", "data.val_samples=1", "--json").json["data"]["images"] == 1
