"""`pvtctl finetune`: from a run's or another project's weights to a classifier of one's own classes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_run import TINY, Cli

from pvtctl.models.backbones import build_classifier
from pvtctl.weights.recognise import to_publisher

SMOKE = ["--profile", "smoke", *TINY]


def make_folder(root: Path, names: list[str]) -> Path:
    for split in ("train", "val"):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for at in range(4):
                Image.new("RGB", (40, 40), (60 * label, 9 * at, 90)).save(folder / f"{at}.jpg")
    return root


def test_from_a_run_then_evaluated(cli: Cli, smoke_run: Path) -> None:
    result = cli("finetune", "scenes", "--weights", smoke_run, *SMOKE, "--json")
    assert result.code == 0, result.err
    assert "backbone: pvt_v2_b0, from the weights" in result.err
    assert "12 classes kept, 0 new" in result.err
    run = Path(result.json["run"])
    assert run.name == "finetune_classification-pvt_v2_b0-smoke"
    scored = cli("eval", run, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["metrics"] == result.json["metrics"]


def test_head_rows_are_kept_by_class_name(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    """A folder with two of the run's classes and one of its own."""
    folder = make_folder(tmp_path / "photos", ["arch", "zebra", "ball"])
    sets = ["--set", "train.total_batch=4", "--set", "data.train_samples=12"]
    result = cli("finetune", folder, "--weights", smoke_run / "best.safetensors", "--profile", "smoke", *sets)
    assert result.code == 0, result.err
    assert "head: 2 classes kept, 1 new, 10 dropped (by class name)" in result.err
    assert "runs/finetune_classification-pvt_v2_b0-smoke-photos/report.html" in result.out
    assert "paper" not in result.out.splitlines()[2], "no column for what no paper printed"


def test_from_an_official_file(cli: Cli, tmp_path: Path) -> None:
    """A 1000-class file of the official layout, of which no class is among the scenes."""
    torch.manual_seed(0)
    state = to_publisher(build_classifier("pvt_v2_b0").state_dict())
    torch.save({"model": state}, tmp_path / "official.pth")
    result = cli("finetune", "scenes", "--weights", "official.pth", *SMOKE, "--dry-run")
    assert result.code == 0, result.err
    assert "backbone: pvt_v2_b0, from the weights" in result.err
    assert "0 classes kept, 12 new, 1000 dropped" in result.err


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("html", "is a web page"),
        ("empty", "is empty"),
        ("missing", "no weights"),
        ("truncated", "damaged"),
        ("pickle", "would run code"),
    ],
)
def test_bad_weights_leave_nothing_behind(
    cli: Cli, smoke_run: Path, tmp_path: Path, weights: str, message: str
) -> None:
    file = tmp_path / "weights.safetensors"
    match weights:
        case "html":
            file.write_text("<!DOCTYPE html><html></html>")
        case "empty":
            file.write_bytes(b"")
        case "truncated":
            file.write_bytes((smoke_run / "best.safetensors").read_bytes()[:100_000])
        case "pickle":
            torch.save({"model": _Malicious()}, file)
    result = cli("finetune", "scenes", "--weights", file, *SMOKE)
    assert result.code == 2
    assert message in result.err
    assert "hint: " in result.err
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "made by the pickle").exists()


class _Malicious:
    """Unpickling it makes a folder."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, ("made by the pickle",)


def test_another_models_weights_are_refused(cli: Cli, smoke_run: Path) -> None:
    result = cli("finetune", "scenes", "--weights", smoke_run, "--backbone", "pvt_tiny", *SMOKE)
    assert result.code == 2
    assert "pvt_v2_b0" in result.err


def test_without_weights_an_imagenet_run_is_taken(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    shutil.copytree(smoke_run, run, ignore=shutil.ignore_patterns("checkpoints", "*.png", "tensorboard"))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("name: scenes", "name: imagenet"))
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"num_classes": 1000}))
    result = cli("finetune", "scenes", "--backbone", "pvt_v2_b0", *SMOKE, "--dry-run")
    assert result.code == 0, result.err
    assert "weights: runs/mine (the newest finished run of pvt_v2_b0 on imagenet)" in result.err


def test_without_weights_and_runs_the_published_are_wanted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvtctl.errors import PvtctlError

    def offline(name: str) -> None:
        raise PvtctlError("no network")

    monkeypatch.setattr("pvtctl.weights.download.fetch_weights", offline)
    result = cli("finetune", "scenes", "--backbone", "pvt_v2_b0", *SMOKE)
    assert result.code == 1
    assert "fetching the published ones from https://github.com/whai362/PVT" in result.err
    assert "error: no network" in result.err
    assert "--weights" in result.err
