"""`pvtctl pretrain`, from words to a run folder, and every bad input a user may give it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_run import TINY, Cli

from pvtctl.engine import RunFolder, read_run_recipe, single

WHOLE = ["pretrain", "scenes", "--backbone", "pvt_v2_b0", "--profile", "smoke", *TINY]
SMOKE = [*WHOLE, "--set", "model.backbone.width=0.25", "--set", "data.val_samples=6"]


def make_folder(root: Path, *, per_class: int = 12, size: int = 40) -> Path:
    """Two classes of coloured squares in ImageNet layout."""
    for split in ("train", "val"):
        for label, name in enumerate(("blue", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for at in range(per_class):
                color = (200 * label, at, 200 * (1 - label))
                Image.new("RGB", (size, size), color).save(folder / f"{at}.jpg")
    return root


def folder_run(folder: Path, *more: str) -> list[str]:
    sets = ["train.total_batch=4", "data.train_samples=8", "data.val_samples=24"]
    sets += ["model.backbone.width=0.25"]
    flags = [part for value in sets for part in ("--set", value)]
    return ["pretrain", str(folder), "--backbone", "pvt_v2_b0", "--profile", "smoke", *flags, *more]


def test_run_folder_holds_everything(smoke_run: Path) -> None:
    names = {path.name for path in smoke_run.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "run.json",
        "metrics.jsonl",
        "best.safetensors",
        "checkpoints",
        "curves.png",
        "confusion.png",
        "calibration.png",
        "worst.png",
        "predictions.png",
        "report.html",
    }
    info = json.loads((smoke_run / "run.json").read_text())
    assert (info["status"], info["row"], info["profile"]) == ("finished", "pvt_v2_b0", "smoke")
    assert "data" in json.loads((smoke_run / "environment.json").read_text())[0]
    page = (smoke_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "not comparable" in page
    assert "70.5" in page, "the paper's figure stands beside"


def test_results_table_and_default_folder(cli: Cli) -> None:
    result = cli(*SMOKE)
    assert result.code == 0, result.err
    assert "recipe: imagenet_pvt_v2, row pvt_v2_b0, profile smoke" in result.err
    assert "70.5" in result.out
    assert "not comparable" in result.out
    assert "runs/imagenet_pvt_v2-pvt_v2_b0-smoke/report.html" in result.out
    again = cli(*SMOKE)
    assert again.code == 2
    assert "exists already" in again.err
    assert "--resume" in again.err
    resumed = cli(*SMOKE, "--resume")
    assert resumed.code == 0
    assert "has finished already" in resumed.err
    changed = cli(*SMOKE, "--resume", "--set", "train.optimizer.lr=0.5")
    assert changed.code == 2
    assert "train.optimizer.lr" in changed.err


def test_a_second_run_stays_out_of_a_folder_in_use(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(smoke_run, folder, ignore=shutil.ignore_patterns("*.png", "tensorboard"))
    with RunFolder.open(folder, read_run_recipe(folder), resume=True, dist=single("cpu")):
        result = cli(*WHOLE, "--out", folder, "--resume")
    assert result.code == 2
    assert "another run is at work" in result.err


def test_json_is_one_document(cli: Cli) -> None:
    result = cli(*SMOKE, "--json")
    assert result.code == 0, result.err
    assert 0 <= result.json["metrics"]["top1"] <= 1
    assert {row["figure"] for row in result.json["paper"]} == {"top1_acc", "params_m", "gmacs"}
    assert Path(result.json["files"]["report"]).is_file()


def test_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    result = cli(*SMOKE, "--dry-run")
    assert result.code == 0, result.err
    assert "peak memory" in result.out
    assert list(tmp_path.iterdir()) == []


def test_scenes_take_the_mini_profile_and_say_so(cli: Cli) -> None:
    sets = [
        part
        for value in ("data.train_samples=32", "train.max_steps=1", "data.val_samples=4")
        for part in ("--set", value)
    ]
    result = cli("pretrain", "scenes", "--backbone", "pvt_v2_b0", "--dry-run", *sets)
    assert result.code == 0, result.err
    assert "profile: mini, the one for scenes" in result.err


def test_a_backbone_without_a_row_says_so(cli: Cli) -> None:
    result = cli("pretrain", "scenes", "--backbone", "timm:resnet10t", "--profile", "smoke", "--dry-run", *TINY)
    assert result.code == 0, result.err
    assert "no row of imagenet_pvt_v1 trains timm:resnet10t: its shared settings are used" in result.err


def test_no_backbone_means_pvt_small(cli: Cli) -> None:
    result = cli("pretrain", "imagenet")
    assert result.code == 2
    assert "backbone: pvt_small, as none was named" in result.err
    assert "no data for 'imagenet'" in result.err
    assert "expected: FOLDER/train/CLASS" in result.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["scenes", "--backbone", "pvt_smal"], "pvt_smal", "did you mean pvt_small"),
        (["scenes", "--backbone", "timm:nonsense"], "nonsense", ""),
        (["scene"], "no data set or folder 'scene'", "did you mean scenes"),
        (["./nowhere"], "there is no folder ./nowhere", "train/CLASS"),
        (["scenes", "--data", "."], "it needs no --data", "leave out --data"),
        (["scenes", "--profile", "mega"], "no profile 'mega'", "mini"),
        (["scenes", "--recipe", "imagenet_pvt"], "no recipe 'imagenet_pvt'", "imagenet_pvt_v1"),
        (["scenes", "--set", "train.epoch=3"], "train.epoch", "did you mean epochs"),
        (["scenes", "--set", "train.optimizer.lr=abc"], "train.optimizer.lr", ""),
        (["scenes", "--set", "data.image_size=0"], "data.image_size", ""),
        (["scenes", "--gpus", "0"], "--gpus 0", "1 or more"),
        (["scenes", "--device", "cuda"], "CUDA", "--device cpu"),
        (["scenes", "--device", "gpu"], "no device 'gpu'", "cuda"),
        (["scenes", "--weights", "nothing.pth"], "nothing.pth", ""),
        (["scenes", "--resume"], "there is no run", "leave out --resume"),
        (["scenes", "--nonsense"], "nonsense", "--help"),
    ],
)
def test_wrong_words(cli: Cli, tmp_path: Path, arguments: list[str], message: str, hint: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    if "--profile" not in arguments:
        arguments = [*arguments, "--profile", "smoke"]
    result = cli("pretrain", *arguments)
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    assert any(line.startswith("error: ") for line in lines)
    assert message in result.err
    assert hint in result.err
    assert list(tmp_path.iterdir()) == [], "nothing is left on disk"


def test_more_gpus_than_there_are(cli: Cli) -> None:
    result = cli(*SMOKE, "--gpus", str(torch.cuda.device_count() + 1))
    assert result.code == 2
    assert "this machine has" in result.err


@pytest.mark.parametrize("fault", ["missing", "empty", "empty_class"])
def test_broken_folders(cli: Cli, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "photos"
    if fault == "empty_class":
        make_folder(folder)
        for file in (folder / "train" / "red").iterdir():
            file.unlink()
    elif fault == "empty":
        folder.mkdir()
    result = cli(*folder_run(folder))
    assert result.code == 2
    assert "hint: " in result.err
    assert not (tmp_path / "runs").exists()


def test_one_corrupt_image_is_skipped_counted_and_listed(cli: Cli, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", per_class=4)
    (folder / "train" / "blue" / "1.jpg").write_bytes(b"\xff\xd8\xff no image")
    (folder / "val" / "red" / "2.jpg").write_bytes(b"")
    result = cli(*folder_run(folder, "--json", "--set", "train.epochs=3", "--set", "data.augment.repeats=1"))
    assert result.code == 0, result.err
    assert set(result.json["skipped_images"]) == {"train/blue/1.jpg", "val/red/2.jpg"}
    assert result.json["metrics"]["images"] == 7
    run = Path(result.json["run"])
    assert run.name.endswith("-photos")
    assert "train/blue/1.jpg" in (run / "report.html").read_text()
    assert json.loads((run / "run.json").read_text())["skipped_images"] == 2


def test_everything_corrupt_is_one_clear_error(cli: Cli, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "photos", per_class=4)
    for file in (folder / "train").rglob("*.jpg"):
        file.write_bytes(b"no image")
    result = cli(*folder_run(folder))
    assert result.code == 2
    assert "could not be read" in result.err
    assert "pvtctl data check" in result.err


def test_out_of_memory_is_explained(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvtctl.tasks.classification.task import ClassificationTask

    def losses(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ClassificationTask, "losses", losses)
    result = cli(*SMOKE)
    assert result.code == 1
    assert "memory" in result.err
    assert "train.accumulate" in result.err
    assert "Traceback" not in result.err


def test_a_full_disk_is_explained(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run goes on afterwards: tests/robustness."""
    inner = torch.save

    def no_space(data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(value: Any, handle: Any) -> None:
        if value["progressed"]["epoch"] == 1:
            handle.handle = SimpleNamespace(write=no_space, flush=lambda: None)
        inner(value, handle)

    command = [*SMOKE, "--set", "train.save_minutes=0.000001"]
    with monkeypatch.context() as patch:
        patch.setattr("pvtctl.engine.checkpoint.torch.save", full)
        result = cli(*command)
    assert result.code == 1
    assert "the disk is full" in result.err
    assert "--resume" in result.err
    assert "Traceback" not in result.err


def pvtctl(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pvtctl", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def metrics_of(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


@pytest.mark.slow
def test_two_processes_score_every_image_once(tmp_path: Path) -> None:
    done = pvtctl(*SMOKE, "--gpus", "2", "--device", "cpu", "--json", "--set", "data.val_samples=11", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["images"] == 11
    assert done.stderr.count("run directory:") == done.stderr.count("recipe:") == 1, "one process talks"


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["backbone", "backbone.norms"])
def test_two_processes_train_as_one_where_parts_are_frozen(cli: Cli, tmp_path: Path, frozen: str) -> None:
    """Frozen norms use no statistics of a batch, so that each process's half of it adds up to the whole."""
    sets = [
        f"train.freeze=[{frozen}]",
        "data.augment.mixup_alpha=0",
        "data.augment.cutmix_alpha=0",
        "data.val_samples=4",
    ]
    words = ["pretrain", "scenes", "--backbone", "resnet18@0.25", "--profile", "smoke", *TINY]
    words += [part for value in [*sets, "data.augment.repeats=1"] for part in ("--set", value)]
    assert cli(*words, "--out", "one").code == 0
    done = pvtctl(*words, "--out", "two", "--gpus", "2", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5)
    losses = [[line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
