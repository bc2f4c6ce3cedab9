"""`pvtctl eval`: what it chooses, how it scores, what it prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import stand_in_engine
import torch
from PIL import Image
from tiny_run import Cli

import pvtctl
from pvtctl.data.class_names import imagenet_classes
from pvtctl.errors import PvtctlError
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.recognise import to_publisher


@pytest.fixture(scope="module")
def imagenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 1000-class checkpoint of the official layout with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "pvt_v2_b0.pth"
    torch.save(to_publisher(build_classifier("pvt_v2_b0").state_dict()), path)
    return path


def _offline(name: str) -> None:
    raise PvtctlError(f"no network to fetch {name}")


def make_val(root: Path, names: list[str]) -> Path:
    for label, name in enumerate(names):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        for at in range(2):
            Image.new("RGB", (48, 40), (80 * label, 30 * at, 90)).save(folder / f"{at}.jpg")
    return root


def test_a_run_scores_as_it_did_when_it_ended(cli: Cli, smoke_run: Path) -> None:
    result = cli("eval", smoke_run, "--json")
    assert result.code == 0, result.err
    best = json.loads((smoke_run / "run.json").read_text())["score"]
    numbers = result.json["metrics"]
    assert {name: numbers[name] for name in best} == best
    assert result.json["chosen"]["backbone"] == "pvt_v2_b0"
    assert len(result.json["per_class"]) == 12
    assert sum(row["images"] for row in result.json["per_class"]) == result.json["data"]["images"] == 12
    assert sum(row["images"] for row in result.json["calibration"]) == 12
    assert result.json["files"] == {}
    assert "packages" in result.json["environment"]
    assert not (smoke_run / "eval").exists(), "--json alone writes nothing"


def test_another_engine_scores_the_same(cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = stand_in_engine.put_in(monkeypatch)
    result = cli("eval", smoke_run, "--engine", "onnxruntime", "--json")
    assert result.code == 0, result.err
    plain = cli("eval", smoke_run, "--json").json
    assert engine.seen == 12
    assert result.json["metrics"] == pytest.approx(plain["metrics"], rel=1e-5)
    for found, name in ((result.json, "onnxruntime"), (plain, "torch")):
        assert (found["chosen"]["engine"], found["chosen"]["precision"]) == (name, "fp32")
    assert "in fp32 by onnxruntime" in result.err
    scored = pvtctl.evaluate(smoke_run, engine="onnxruntime", quiet=True)
    assert scored.engine == "onnxruntime"
    assert scored.numbers == pytest.approx(plain["metrics"], rel=1e-5)
    assert engine.seen == 24
    assert cli("eval", smoke_run, "--engine", "tensorrt").code == 2


def test_pictures_and_tables(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    result = cli("eval", smoke_run, "--out", tmp_path / "eval")
    assert result.code == 0, result.err
    assert "top-1, %" in result.out
    assert "most often taken for" in result.out
    names = {path.name for path in (tmp_path / "eval").iterdir()}
    assert names == {"report.html", "confusion.png", "calibration.png", "worst.png", "predictions.png"}


def test_words_alone_find_the_newest_run(
    cli: Cli, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTCTL_RUNS", str(tmp_path / "mine"))
    for name, finished in (("old", "2026-01-01"), ("new", "2026-02-01"), ("unfinished", None)):
        copy = tmp_path / "mine" / name
        shutil.copytree(smoke_run, copy, ignore=shutil.ignore_patterns("checkpoints", "*.png", "tensorboard"))
        info = json.loads((copy / "run.json").read_text())
        info |= {"finished": finished, "status": "finished" if finished else "stopped"}
        (copy / "run.json").write_text(json.dumps(info))
    result = cli("eval", "scenes", "--backbone", "pvt_v2_b0", "--json")
    assert result.code == 0, result.err
    assert result.json["chosen"]["weights"] == str(tmp_path / "mine" / "new")
    assert "the newest finished run of pvt_v2_b0 on scenes" in result.err
    none = cli("eval", "scenes", "--backbone", "pvt_tiny")
    assert none.code == 2
    assert "pvtctl pretrain scenes --backbone pvt_tiny" in none.err


def test_words_alone_take_the_published_weights(
    cli: Cli, imagenet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wnids = list(imagenet_classes())
    make_val(tmp_path / "data" / "imagenet", [wnids[5], wnids[900]])
    monkeypatch.setattr("pvtctl.weights.download.fetch_weights", lambda name: imagenet_file)
    result = cli("eval", "imagenet", "--backbone", "pvt_v2_b0", "--size", "32")
    assert result.code == 0, result.err
    assert "fetching the published ones" in result.err
    assert "top-1, % (as published)" in result.out
    assert "70.5" in result.out


def test_a_thousand_classes_are_scored_by_wnid(cli: Cli, imagenet_file: Path, tmp_path: Path) -> None:
    """The same images are right in whichever folder order their wnids give."""
    wnids = list(imagenet_classes())
    folder = make_val(tmp_path / "photos", [wnids[900], wnids[5]])
    arguments = ("eval", folder, "--weights", imagenet_file, "--size", "32", "--json")
    result = cli(*arguments)
    assert result.code == 0, result.err
    assert "pvt_v2_b0, 1000 classes" in result.err
    assert {row["label"] for row in result.json["worst"]} == {wnids[5], wnids[900]}
    assert {row["prediction"] for row in result.json["worst"]} <= set(wnids)
    assert {row["name"] for row in result.json["per_class"]} == {imagenet_classes()[wnids[at]] for at in (5, 900)}
    assert 0 <= result.json["metrics"]["top1_present"] <= 1
    assert result.json["data"]["image_size"] == 32
    assert result.json["data"]["resize"] == 37, "in proportion, as 256 to 224"


def test_real_photos_of_some_classes(cli: Cli, imagenet_file: Path, shared: Path) -> None:
    folder = shared / "data" / "imagenet1k_sample"
    result = cli("eval", folder, "--weights", imagenet_file, "--size", "32", "--json")
    assert result.code == 0, result.err
    assert result.json["metrics"]["images"] == 200
    assert len(result.json["per_class"]) == 200
    assert result.json["metrics"]["top1"] < 0.05, "random weights"


def test_named_data_is_scored_whole(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by weights of a run that looked at a part of it; the run itself repeats what it did."""
    monkeypatch.setattr("pvtctl.weights.download.fetch_weights", _offline)
    names = ["blue", "red", "green"]
    folder = make_val(tmp_path / "photos", names)
    shutil.copytree(folder / "val", folder / "train")
    sets = [f"--set={value}" for value in ("data.val_samples=3", "data.train_samples=4", "train.total_batch=2")]
    result = cli("pretrain", folder, "--backbone", "pvt_v2_b0", "--profile", "smoke", "--out", "run", *sets, "--json")
    assert result.code == 0, result.err
    assert cli("eval", "run", "--json").json["metrics"] == result.json["metrics"]
    assert result.json["metrics"]["images"] == 3
    assert cli("eval", folder, "--weights", "run", "--json").json["metrics"]["images"] == 6
    shutil.move("run", "runs/run")
    found = cli("eval", folder, "--backbone", "pvt_v2_b0", "--json")
    assert found.json["chosen"]["weights"] == "runs/run", found.err
    other = make_val(tmp_path / "other", names)
    assert "fetching the published" in cli("eval", other, "--backbone", "pvt_v2_b0").err, "a run on other photos"


def test_missing_data_is_said_before_anything_is_fetched(cli: Cli) -> None:
    result = cli("eval", "imagenet", "--backbone", "pvt_v2_b0")
    assert result.code == 2
    assert "expected: FOLDER/train/CLASS" in result.err
    assert "fetching" not in result.err


def test_other_classes_are_a_clear_error(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    folder = make_val(tmp_path / "photos", ["dachshund", "poodle"])
    result = cli("eval", folder, "--weights", smoke_run)
    assert result.code == 2
    assert "not among the model's 12: dachshund, poodle" in result.err
    assert "pvtctl finetune" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "out of range"),
        (["--size", "-5"], "not a size"),
        (["--size", "800x"], "not a size"),
        (["--size", "64x32"], "square"),
        (["--size", "64", "--resize", "40"], "smaller than the crop"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--backbone", "pvt_tiny"], "holds pvt_v2_b0, not pvt_tiny"),
        (["--weights", "x.pth"], "its own weights"),
    ],
)
def test_wrong_options(cli: Cli, smoke_run: Path, arguments: list[str], message: str) -> None:
    result = cli("eval", smoke_run, *arguments)
    assert result.code == 2
    assert message in result.err


def test_a_backbone_without_a_head_cannot_be_scored(cli: Cli, tmp_path: Path) -> None:
    torch.save(build_classifier("pvt_v2_b0", num_classes=2).backbone.state_dict(), tmp_path / "bare.pth")
    result = cli("eval", "scenes", "--weights", "bare.pth")
    assert result.code == 2
    assert "has no head" in result.err
    assert "pvtctl finetune" in result.err


def test_runs_that_cannot_be_read_are_left_out_and_told(
    cli: Cli, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTCTL_RUNS", str(tmp_path / "mine"))
    for name in ("good", "newer"):
        skip = shutil.ignore_patterns("checkpoints", "*.png", "tensorboard")
        shutil.copytree(smoke_run, tmp_path / "mine" / name, ignore=skip)
    newer = tmp_path / "mine" / "newer"
    (newer / "recipe.yaml").write_text((newer / "recipe.yaml").read_text() + "surprise: 1\n")
    (newer / "run.json").write_text((newer / "run.json").read_text().replace('"finished": "20', '"finished": "30'))
    (tmp_path / "mine" / "other").mkdir()
    (tmp_path / "mine" / "other" / "run.json").write_text("[1, 2]")
    result = cli("eval", "scenes", "--backbone", "pvt_v2_b0", "--json")
    assert result.code == 0, result.err
    assert result.json["chosen"]["weights"] == str(tmp_path / "mine" / "good")
    assert "newer is left out of the search" in result.err
    named = cli("eval", newer)
    assert named.code == 2
    assert "surprise" in named.err


def test_a_report_is_not_written_over_a_file(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = cli("eval", smoke_run, "--out", "notes.txt")
    assert result.code == 2
    assert "--out notes.txt is a file" in result.err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_processes_that_do_not_divide_the_training_batch_can_evaluate(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvtctl.tasks import from_recipe

    inner = from_recipe.train_batch_size
    monkeypatch.setattr(from_recipe, "train_batch_size", lambda recipe, world_size: inner(recipe, 7))
    result = cli("eval", smoke_run, "--json")
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<!DOCTYPE html><html></html>", "is a web page"), (b"\x80\x02cos\nsystem\n.", "would run code")],
)
def test_files_that_are_no_checkpoints(cli: Cli, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    result = cli("eval", "scenes", "--weights", "model.pth")
    assert result.code == 2
    assert message in result.err
    assert "hint: " in result.err


@pytest.mark.parametrize("lost", ["run.json", "recipe.yaml"])
def test_half_a_run_is_not_taken_for_data(cli: Cli, smoke_run: Path, tmp_path: Path, lost: str) -> None:
    """Nothing is downloaded to score it."""
    shutil.copytree(smoke_run, tmp_path / "run", ignore=shutil.ignore_patterns(lost, "*.png", "*.html", "*.pt"))
    result = cli("eval", "run")
    assert result.code == 2
    assert f"the run in run is only half there: it has no {lost}" in result.err
