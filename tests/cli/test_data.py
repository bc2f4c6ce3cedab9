"""`pvtctl data`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pvtctl.cli.main import main


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    colour = 0
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                colour += 20
                Image.new("RGB", (40, 40), (colour, 0, 0)).save(folder / f"{number}.jpg")
    return tmp_path / "set"


def test_check_says_its_verdict_with_its_exit_code(small_set, capsys):
    assert main(["data", "check", str(small_set), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "train: 4 images" in out
    assert out.splitlines()[-1] == "verdict: ok: use it (exit code 0)"
    (small_set / "train" / "cat" / "2.jpg").write_bytes(b"no image")
    assert main(["data", "check", str(small_set), "--workers", "0"]) == 1
    out = capsys.readouterr().out
    assert "cat/2.jpg" in out
    assert "verdict: usable: read the warnings (exit code 1)" in out
    (small_set / "train" / "bird").mkdir()
    assert main(["data", "check", str(small_set), "--workers", "0"]) == 2


def test_check_json(small_set, capsys):
    assert main(["data", "check", str(small_set), "--workers", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "ok"
    assert document["images"] == {"train": 4, "val": 4}
    assert document["problems"] == []


@pytest.mark.parametrize("command", ["check", "preview"])
def test_no_such_folder(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PVTCTL_DATA", raising=False)
    assert main(["data", command, "scene"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no data folder scene",
        "hint: give a folder with train/ and val/, or did you mean scenes?",
    ]
    assert main(["data", command, "imagenet"]) == 2
    error = capsys.readouterr().err
    assert "error: no data for 'imagenet': looked for data/imagenet" in error
    assert "FOLDER/train/CLASS/*.JPEG" in error


def test_there_is_nothing_to_check_in_scenes(capsys):
    assert main(["data", "check", "scenes"]) == 2
    assert "pvtctl data preview scenes" in capsys.readouterr().err


def test_preview(small_set, tmp_path, capsys):
    target = tmp_path / "p.png"
    assert main(["data", "preview", str(small_set), "-o", str(target), "--size", "32", "--count", "2"]) == 0
    assert target.is_file()
    assert "2 of 4 train samples" in capsys.readouterr().err
    assert main(["data", "preview", str(small_set), "--row", "pvt_small"]) == 2


def test_preview_by_a_recipe(tmp_path, capsys):
    target = tmp_path / "p.png"
    arguments = ["--size", "32", "--count", "1", "--recipe", "imagenet_pvt_v1", "--row", "pvt_small"]
    assert main(["data", "preview", "scenes", "-o", str(target), *arguments]) == 0
    assert target.is_file()


def test_ls(small_set, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PVTCTL_DATA", str(tmp_path))
    assert main(["data", "ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["imagenet"]["where"] is None
    assert rows["scenes"]["classes"] == 12
    small_set.rename(tmp_path / "imagenet")
    assert main(["data", "ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert (rows["imagenet"]["where"], rows["imagenet"]["train"]) == (str(tmp_path / "imagenet"), 4)
    assert main(["data", "ls"]) == 0
    assert "rendered on the fly" in capsys.readouterr().out


def test_exported_scenes_pass_the_check(tmp_path, capsys):
    target = tmp_path / "scenes"
    sizes = ["--train", "24", "--val", "12", "--size", "32"]
    assert main(["data", "export", "scenes", "--layout", "imagenet", "--to", str(target), *sizes]) == 0
    assert "24 train and 12 val images" in capsys.readouterr().err
    assert main(["data", "check", str(target), "--workers", "0"]) == 0
    assert main(["data", "export", "coco", "--layout", "coco", "--to", str(target)]) == 2
