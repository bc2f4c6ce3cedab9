"""`pvtctl finetune`, `eval` and `predict` for segmentation and depth: from words to run folders and maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import Cli, Result

from pvtctl.cli.main import main

TINY = ["--backbone", "pvt_v2_b0@0.25", "--profile", "smoke", "--weights", "none"]
TINY += ["--set", "data.train_samples=4", "--set", "data.val_samples=2", "--set", "train.total_batch=2"]
"""64 pixels, two epochs at most of two steps, two validation images."""
SEGMENTER = ["--head", "semantic_fpn", "--set", "model.head.width=32"]
METRIC = ["--head", "dpt", "--task", "depth", "--set", "model.head.width=32"]
FILES = {
    "best.safetensors",
    "checkpoints",
    "curves.png",
    "environment.json",
    "metrics.jsonl",
    "recipe.yaml",
    "report.html",
    "run.json",
    "samples",
    "worst.png",
}


@pytest.fixture(scope="module")
def made(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Two runs on scenes, `segmenter` and `metric`, and scenes as files, `maps` and `rooms`. Read only."""
    runs = (("segmenter", SEGMENTER), ("metric", METRIC))

    def make(top: Path) -> None:
        sizes = ["--train", "4", "--val", "2", "--size", "64"]
        for layout, name in (("ade20k", "maps"), ("nyu", "rooms")):
            assert main(["data", "export", "scenes", "--layout", layout, "--to", str(top / name), *sizes]) == 0
        for name, words in runs:
            assert main(["finetune", "scenes", *words, *TINY, "--out", str(top / name)]) == 0

    return made_once("dense", make)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


def assert_told(result: Result, *parts: str) -> None:
    """Exit code 2, one line that says what is wrong, and what to do."""
    assert result.code == 2, result.err
    assert result.err.count("error: ") == result.err.count("\nhint: ") == 1, result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err[result.err.index("error: ") :], result.err


@pytest.mark.parametrize(
    ("run", "more", "told"),
    [
        ("segmenter", {"classes.csv", "confusion.csv"}, "not comparable with that of PVT v2, Table 5"),
        ("metric", {"per_image.csv"}, "Measured in metric depth, not aligned"),
    ],
)
def test_what_a_run_leaves(made: Path, run: str, more: set[str], told: str) -> None:
    assert {path.name for path in (made / run).iterdir()} >= FILES | more
    report = (made / run / "report.html").read_text()
    assert report.count("data:image/png;base64") >= 4
    assert "Curves" in report
    assert told in report
    logged = [line for line in metrics_of(made / run) if line["event"] == "train"]
    assert all(np.isfinite(line["loss"]) for line in logged)


@pytest.mark.parametrize(("run", "score"), [("segmenter", "miou"), ("metric", "delta1")])
def test_a_run_is_scored_as_it_ended(cli: Cli, made: Path, run: str, score: str) -> None:
    result = cli("eval", made / run, "--json")
    assert result.code == 0, result.err
    best = max(line["metrics"][score] for line in metrics_of(made / run) if line["event"] == "eval")
    assert result.json["metrics"][score] == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--head", "dpt", "--task", "segmentation", "--set", "model.head.width=32"],
        ["--head", "trans2seg", "--set", "model.head.embed_dim=32", "--set", "model.head.num_heads=2"],
        ["--head", "dpt", "--recipe", "dpt_backbones", "--set", "model.head.width=32"],
        ["--head", "midas", "--backbone", "resnet18@0.25", "--set", "model.head.width=32"],
    ],
    ids=["dpt", "trans2seg", "ssi", "midas"],
)
def test_every_head_trains_and_is_scored_as_it_ended(cli: Cli, words: list[str]) -> None:
    result = cli("finetune", "scenes", *TINY, *words, "--set", "train.epochs=1", "--json")
    assert result.code == 0, result.err
    run = Path(result.json["run"])
    assert {path.name for path in run.iterdir()} >= FILES
    scored = cli("eval", run, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["metrics"] == pytest.approx(result.json["metrics"], nan_ok=True)


def test_label_maps_are_written(cli: Cli, made: Path) -> None:
    images = made / "maps" / "images" / "validation"
    result = cli("predict", images, "--weights", made / "segmenter", "--out", "seen")
    assert result.code == 0, result.err
    assert len(list(Path("seen").iterdir())) == 4
    with Image.open("seen/val_000000.png") as file:
        assert (file.mode, file.size) == ("P", (64, 64))
        assert int(np.asarray(file).max()) < 15
    again = cli(
        "predict", images / "val_000000.jpg", "--weights", made / "segmenter", "--flip", "--ratios", "1,1.5", "--json"
    )
    assert again.code == 0, again.err
    assert again.json["task"] == "segmentation"
    assert len(again.json["classes"]) == 15
    shares = again.json["images"][0]["classes"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert set(shares) <= set(again.json["classes"])
    slid = cli("predict", images, "--weights", made / "segmenter", "--window", "48x48", "--json")
    assert slid.code == 0, slid.err


def test_depth_is_written(cli: Cli, made: Path) -> None:
    result = cli("predict", made / "rooms" / "val" / "rgb", "--weights", made / "metric", "--out", "seen", "--flip")
    assert result.code == 0, result.err
    metres = np.load("seen/val_000001.npy")
    assert (metres.shape, metres.dtype) == ((64, 64), np.float32)
    with Image.open("seen/val_000001.png") as file:
        assert file.info["pvtctl:space"] == "metres"
        scale = float(file.info["pvtctl:scale"])
        stored = np.asarray(file).astype(np.float64)
    assert np.abs(stored / scale - metres).max() <= 0.5 / scale + 1e-6
    assert Path("seen/val_000001_view.png").is_file()


@pytest.mark.parametrize(
    ("folder", "words", "head", "data"),
    [
        ("maps", [], "semantic_fpn", "ade20k"),
        ("maps", ["--head", "dpt"], "dpt", "ade20k"),
        ("rooms", [], "dpt", "depth"),
        ("rooms", ["--head", "midas"], "midas", "depth"),
    ],
)
def test_folders_say_what_they_are_for(
    cli: Cli, made: Path, folder: str, words: list[str], head: str, data: str, tmp_path: Path
) -> None:
    narrow = ["--set", "model.head.width=32"]
    result = cli("finetune", made / folder, *words, *TINY, *narrow, "--dry-run", "--json")
    assert result.code == 0, result.err
    chosen = result.json["recipe"]
    assert (chosen["model"]["head"]["name"], chosen["data"]["name"]) == (head, data)
    assert chosen["data"]["path"] == str(made / folder)
    if data == "depth":  # nothing of NYUv2's, whose recipe it is
        assert (chosen["eval"]["crop"], chosen["eval"]["max_depth"], chosen["data"]["depth"]["max_depth"]) == (
            "none",
            None,
            None,
        )
        assert ("rules of nyu that are not used" in result.err) == (head == "dpt")
    assert result.json["dry_run"]["steps"] > 0
    assert not (tmp_path / "runs").exists()


def test_a_run_goes_on_with_other_data(cli: Cli, made: Path) -> None:
    """The run's classes are kept by name."""
    words = ["--weights", made / "segmenter", *SEGMENTER[2:], *TINY[:4], *TINY[6:], "--dry-run"]
    result = cli("finetune", made / "maps", *words)
    assert result.code == 0, result.err
    assert "15 classes kept, 0 new, 0 dropped (by class name)" in result.err
    depth = cli(
        "finetune", made / "rooms", *METRIC[4:], "--weights", made / "metric", *TINY[:4], *TINY[6:], "--dry-run"
    )
    assert depth.code == 0, depth.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["scenes", "--head", "semantic_fpm"], ["no head 'semantic_fpm'", "did you mean semantic_fpn?"]),
        (["scenes", "--task", "nonsense"], ["no task 'nonsense'", "depth"]),
        (["scenes", "--head", "midas", "--task", "segmentation"], ["midas is not a head for segmentation"]),
        (["rooms", "--head", "semantic_fpn"], ["--head semantic_fpn needs label maps", "in the layout of depth"]),
        (["maps", "--head", "midas"], ["--head midas needs depth maps", "in the layout of ade20k"]),
        (["maps", "--task", "depth"], ["--task depth needs depth maps"]),
        (["maps", "--recipe", "dpt_nyu"], ["recipe dpt_nyu needs depth maps"]),
        (["mix", "--data", "maps"], ["the sets of a mix have folders of their own"]),
        (["mix", "--head", "dpt"], ["data.depth.mix.redweb: no data folder data/redweb"]),
        (
            ["rooms", "--set", "train.loss.name=silog", "--set", "model.head.scale_shift=null"],
            ["silog compares metres", "model.head.scale_shift"],
        ),
        (
            ["maps", "--set", "eval.window=[32,32]", "--set", "eval.stride=[48,32]"],
            ["eval.stride: 48x32 is larger than the window of 32x32"],
        ),
        (["maps", "--set", "eval.stride=[48,32]"], ["eval.stride: needs eval.window"]),
        (["maps", "--set", "model.head.scale_shift=[1,0.1]"], ["model.head.scale_shift", "segmentation"]),
        (["maps", "--set", "model.num_classes=3"], ["3", "15"]),
        (["rooms", "--set", "data.depth.scale=0"], ["data.depth.scale", "greater than 0"]),
        (["rooms", "--set", "eval.alignment=scal"], ["eval.alignment", "scale_shift"]),
    ],
)
def test_words_that_do_not_fit(cli: Cli, made: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    words = [str(made / word) if word in ("maps", "rooms") else word for word in arguments]
    assert_told(cli("finetune", *words, *TINY), *parts)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["eval", "segmenter", "--window", "32x32", "--stride", "48x48"], ["larger than the window of 32x32"]),
        (["eval", "segmenter", "--stride", "16x16"], ["needs", "window"]),
        (["eval", "segmenter", "--alignment", "median"], ["depth"]),
        (["eval", "metric", "--window", "32x32"], ["segmentation"]),
        (["eval", "metric", "--alignment", "scale"], ["scale_shift"]),
        (["eval", "metric", "--max-depth", "-1"], ["max"]),
        (["eval", "rooms", "--weights", "segmenter"], ["segmentation"]),
        (["predict", "maps", "--weights", "segmenter", "--window", "32x32", "--stride", "48x48"], ["lower --stride"]),
        (["predict", "maps", "--weights", "segmenter", "--stride", "8x8"], ["--stride needs --window"]),
        (["predict", "maps", "--weights", "segmenter", "--scale-shift", "1,0.1"], ["for depth"]),
        (["predict", "rooms", "--weights", "metric", "--window", "32x32"], ["--window is for segmentation"]),
        (["predict", "rooms", "--weights", "metric", "--scale-shift", "0,1"], ["scale"]),
        (["predict", "rooms", "--weights", "metric", "--ratios", "1,x"], ["x"]),
    ],
)
def test_options_that_do_not_fit(cli: Cli, made: Path, arguments: list[str], parts: list[str]) -> None:
    words = [str(made / word) if (made / word).exists() else word for word in arguments]
    assert_told(cli(*words), *parts)


def test_a_place_that_cannot_be_written_is_told_before_the_work(cli: Cli, made: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    for words in (["eval", made / "metric"], ["predict", made / "maps", "--weights", made / "segmenter"]):
        assert_told(cli(*words, "--out", "taken/new"), "taken/new cannot be written", "choose another --out")
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_cap_of_eval_goes_before_that_of_training(cli: Cli, made: Path) -> None:
    """A model that learned rooms of 3 m, scored to 80 m: truth beyond 3 m counts."""
    words = ["eval", made / "rooms", "--weights", made / "metric", "--max-depth", "80", "--json"]
    pixels = [
        json.loads(cli(*words, *more).out)["metrics"]["pixels"] for more in ([], ["--set", "data.depth.max_depth=3"])
    ]
    assert pixels[0] == pixels[1] > 0
