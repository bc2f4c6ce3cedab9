"""The Python functions: runs that are trained, loaded and scored give what the commands give."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from same_detections import assert_same_detections
from torch import nn

import pvtctl
from pvtctl.cli.main import main
from pvtctl.models.structures import Detections
from pvtctl.runs.load_run import ClassScores, DepthMap, LabelMap

SMALL: list[Any] = ["data.train_samples=4", "data.val_samples=2", "train.epochs=1", "train.total_batch=2"]
SMALL += ["model.backbone.width=0.25"]
RECIPES = {
    "classification": ("imagenet_pvt_v2", "pvt_v2_b0", []),
    "detection": ("coco_retinanet_1x", "pvt_v2_b0", ["model.head.width=32"]),
    "segmentation": ("ade20k_semantic_fpn", "pvt_v2_b0", ["model.head.width=32"]),
    "depth": ("small_depth", None, [("model.backbone", {"name": "pvt_v2_b0"}), "model.head.width=32"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """task -> the run of a tiny model, trained by `run_recipe` when it is asked for."""
    made: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("runs")

    def run(task: str) -> Any:
        if task not in made:
            name, row, own = RECIPES[task]
            made[task] = pvtctl.run_recipe(
                name, row=row, profile="smoke", overrides=[*own, *SMALL], out=folder / task, device="cpu", quiet=True
            )
        return made[task]

    return run


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A JPEG and a PNG of different sizes, with something in them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / "one.jpg", folder / "two.png"]
    for path, (height, width) in zip(paths, ((70, 100), (96, 64)), strict=True):
        coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return paths


def predicted(photos: list[Path], weights: Path, out: Path, *options: str) -> None:
    assert main(["predict", *map(str, photos), "--weights", str(weights), "--out", str(out), *options]) == 0


def test_a_run_is_what_the_command_makes(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    run = runs("classification")
    captured = capsys.readouterr()
    assert captured.out == captured.err == "", "quiet means quiet"
    sets = [word for setting in SMALL for word in ("--set", setting)]
    monkeypatch.chdir(tmp_path)
    command = ["pretrain", "scenes", "--backbone", "pvt_v2_b0", "--profile", "smoke", "--device", "cpu", *sets]
    assert main([*command, "--out", "by-command", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert run.numbers == document["metrics"]
    assert run.best_epoch == document["best_epoch"] == 1
    assert [figure.as_dict() for figure in run.figures if figure.paper is not None] == document["paper"]
    ours, theirs = ((folder / "best.safetensors").read_bytes() for folder in (run.path, tmp_path / "by-command"))
    assert ours == theirs
    assert run.summary.files["report"] == run.path / "report.html"


def test_a_run_is_not_overwritten_and_can_be_resumed(runs: Any) -> None:
    run = runs("classification")
    again: dict[str, Any] = {"row": "pvt_v2_b0", "profile": "smoke", "overrides": SMALL, "out": run.path, "quiet": True}
    with pytest.raises(pvtctl.UsageError, match="exists already"):
        pvtctl.run_recipe("imagenet_pvt_v2", **again)
    assert pvtctl.run_recipe("imagenet_pvt_v2", **again, resume=True, device="cpu").fit == run.fit


def test_a_recipe_object_is_complete(tmp_path: Path) -> None:
    from pvtctl.recipe.load import load_recipe

    recipe = load_recipe("imagenet_pvt_v2", "pvt_v2_b0", "smoke")
    with pytest.raises(pvtctl.UsageError, match="complete as it is"):
        pvtctl.run_recipe(recipe, overrides=["train.epochs=1"], out=tmp_path / "new")
    with pytest.raises(pvtctl.UsageError, match="no recipe"):
        pvtctl.run_recipe("imagenet_pvt_v9", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_loaded_run_knows_itself(runs: Any) -> None:
    run = runs("classification")
    loaded = pvtctl.load_run(run.path, device="cpu")
    assert (loaded.task, len(loaded.class_names)) == ("classification", 12)
    assert loaded.recipe is not None
    assert loaded.recipe.row == "pvt_v2_b0"
    assert loaded.score["top1"] == run.numbers["top1"]
    assert isinstance(loaded.model, nn.Module)
    assert not loaded.model.training
    of_file = pvtctl.load_run(run.path / "best.safetensors", device="cpu")
    assert of_file.recipe is None
    assert of_file.score["top1"] == run.numbers["top1"]
    with pytest.raises(pvtctl.UsageError, match="nothing"):
        pvtctl.load_run(run.path / "nothing")


def test_classes_are_those_of_the_command(runs: Any, photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = runs("classification")
    capsys.readouterr()
    assert main(["predict", *map(str, photos), "--weights", str(run.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    answers = pvtctl.load_run(run.path, device="cpu").predict(photos)
    for answer, listed in zip(answers, document["images"], strict=True):
        assert isinstance(answer, ClassScores)
        assert float(answer.probabilities.sum()) == pytest.approx(1)
        assert [{"class": name, "score": round(score, 5)} for name, score in answer.top()] == listed["classes"]


def test_detections_are_those_of_the_command(runs: Any, photos: list[Path], tmp_path: Path) -> None:
    run = runs("detection")
    predicted(photos, run.path, tmp_path / "out", "--score-threshold", "0.001", "--max-detections", "20")
    loaded = pvtctl.load_run(run.path, device="cpu")
    answers: Any = loaded.predict(photos, score_threshold=0.001, max_detections=20)
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(results) == sum(map(len, answers)) > 0
    categories = json.loads((tmp_path / "out" / "images.json").read_text())["categories"]
    ids = [category["id"] for category in categories]
    assert [category["name"] for category in categories] == loaded.class_names
    for number, answer in enumerate(answers, start=1):
        assert isinstance(answer, Detections)
        own = [each for each in results if each["image_id"] == number]
        sides = torch.tensor([each["bbox"] for each in own])
        sides[:, 2:] += sides[:, :2]
        scores = torch.tensor([each["score"] for each in own])
        labels = torch.tensor([ids.index(each["category_id"]) for each in own])
        assert_same_detections(
            Detections(sides, scores, labels), answer, scores={"atol": 1e-4, "rtol": 0}, boxes={"atol": 0.02, "rtol": 0}
        )
    assert len(loaded.predict(photos[0], max_detections=2, score_threshold=0.0)) == 2  # type: ignore[arg-type]


def test_label_maps_are_those_of_the_command(runs: Any, photos: list[Path], tmp_path: Path) -> None:
    run = runs("segmentation")
    predicted(photos, run.path, tmp_path / "out", "--flip")
    loaded = pvtctl.load_run(run.path, device="cpu")
    for path, answer in zip(photos, loaded.predict(photos, flip=True), strict=True):
        assert isinstance(answer, LabelMap)
        assert answer.labels.dtype == np.uint8
        with Image.open(tmp_path / "out" / f"{path.stem}.png") as written:
            assert np.array_equal(np.asarray(written), answer.labels)
    plain = loaded.predict(photos[0])
    assert isinstance(plain, LabelMap)
    assert not np.array_equal(plain.labels, loaded.predict(photos[0], short_side=128).labels)  # type: ignore[union-attr]


def test_depth_is_that_of_the_command(runs: Any, photos: list[Path], tmp_path: Path) -> None:
    run = runs("depth")
    predicted(photos, run.path, tmp_path / "out", "--scale-shift", "1.5,0.1")
    loaded = pvtctl.load_run(run.path, device="cpu", scale_shift=(1.5, 0.1))
    for path, answer in zip(photos, loaded.predict(photos), strict=True):
        assert isinstance(answer, DepthMap)
        assert answer.space == "metres"
        assert answer.depth.dtype == np.float32
        assert np.array_equal(np.load(tmp_path / "out" / f"{path.stem}.npy"), answer.depth)


def test_an_image_may_come_in_any_form(runs: Any, photos: list[Path]) -> None:
    loaded = pvtctl.load_run(runs("segmentation").path, device="cpu")
    with Image.open(photos[1]) as opened:
        image = opened.convert("RGB")
    array = np.array(image)
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [photos[1], str(photos[1]), image, array, array.astype(np.float32) / 255, pixels, pixels.double() / 255]
    first, *others = loaded.predict(forms)
    assert first.labels.shape == (96, 64)  # type: ignore[union-attr]
    for other in others:
        assert np.array_equal(first.labels, other.labels)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("nowhere.jpg", "nowhere.jpg cannot be read: No such file"),
        (np.zeros((8, 8), np.uint8), r"array of shape \(8, 8\)"),
        (torch.zeros(1, 3, 8, 8), "list"),
        (torch.zeros(3, 8, 8) - 1, "pixels of -1 to -1"),
        (torch.full((3, 8, 8), float("nan")), "pixels of nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(3, 0, 8), "0x8"),
        (7, "a int is not an image"),
    ],
)
def test_what_is_no_image_is_told(runs: Any, image: Any, told: str) -> None:
    loaded = pvtctl.load_run(runs("segmentation").path, device="cpu")
    with pytest.raises(pvtctl.UsageError) as error:
        loaded.predict(image)
    text = f"{error.value.message} {error.value.hint}"
    assert re.search(told, text), text


def test_options_of_other_tasks_are_told(runs: Any, photos: list[Path]) -> None:
    run = runs("segmentation")
    loaded = pvtctl.load_run(run.path, device="cpu")
    with pytest.raises(pvtctl.UsageError, match="nms_iou is for detection"):
        loaded.predict(photos, nms_iou=0.5)
    with pytest.raises(pvtctl.UsageError, match="no option 'flipped'"):
        loaded.predict(photos, flipped=True)  # type: ignore[call-overload]
    with pytest.raises(pvtctl.UsageError, match="scale_shift is for depth"):
        pvtctl.load_run(run.path, scale_shift=(1, 1))


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_a_run_is_scored_as_the_command_scores_it(runs: Any, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs(task)
    scored = pvtctl.evaluate(run.path, device="cpu", quiet=True)
    assert scored.numbers == pytest.approx(run.numbers, nan_ok=True)
    capsys.readouterr()
    assert main(["eval", str(run.path), "--device", "cpu", "--json", "--set", "data.val_samples=3"]) == 0
    by_command = json.loads(capsys.readouterr().out)["metrics"]
    more = pvtctl.evaluate(run.path, overrides=["data.val_samples=3"], device="cpu", quiet=True)
    assert more.numbers["images"] == 3
    for name, value in by_command.items():
        if value is not None:
            assert more.numbers[name] == pytest.approx(value, abs=1e-6), name


def test_only_data_and_eval_can_be_changed_when_scoring(runs: Any) -> None:
    with pytest.raises(pvtctl.UsageError, match=r"train\.epochs cannot be changed"):
        pvtctl.evaluate(runs("classification").path, overrides=["train.epochs=2"])
    with pytest.raises(pvtctl.UsageError, match="scenes, which is rendered"):
        pvtctl.evaluate(runs("classification").path, "photos")


def test_every_public_name_is_there_and_none_costs_torch() -> None:
    for name in pvtctl.__all__:
        assert getattr(pvtctl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pvtctl.nothing
    code = "import sys, pvtctl; assert set(dir(pvtctl)) >= set(pvtctl.__all__); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
