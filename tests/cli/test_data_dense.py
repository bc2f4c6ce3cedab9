"""`pvtctl data` on label maps and depth, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import Cli


@pytest.fixture
def labels(cli: Cli) -> Path:
    done = cli(
        "data",
        "export",
        "scenes",
        "--layout",
        "ade20k",
        "--to",
        "data/ade20k",
        "--train",
        "3",
        "--val",
        "2",
        "--size",
        "64",
    )
    assert done.code == 0, done.err
    return Path("data/ade20k")


def test_check_preview_and_ls_of_label_maps(cli: Cli, labels: Path, tmp_path: Path) -> None:
    checked = cli("data", "check", "ade20k", "--workers", "0")
    assert checked.code in (0, 1), checked.out + checked.err  # a class may be in val alone
    assert "sky" in checked.out
    assert "train: 3 images" in checked.out
    by_folder = json.loads(cli("data", "check", labels, "--workers", "0", "--json").out)
    assert by_folder["classes"] == 15
    assert by_folder["splits"]["train"]["classes"]["sky"]["value"] == 3
    drawn = cli("data", "preview", labels, "-o", "p.png", "--count", "2", "--size", "96")
    assert "p.png: 2 of 3 train images, 3 training views each" in drawn.err
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.width > 4 * 96
    tested = cli(
        "data",
        "preview",
        "ade20k",
        "-o",
        "q.png",
        "--split",
        "val",
        "--count",
        "1",
        "--set",
        "data.segmentation.align=1",
    )
    assert "q.png: 1 of 2 val images, as evaluated" in tested.err
    rows = {row["name"]: row for row in json.loads(cli("data", "ls", "--json").out)["rows"]}
    assert [rows["ade20k"][key] for key in ("classes", "train", "val", "state")] == [15, 3, 2, "found"]


def test_a_wrong_setting_is_told_and_tried(cli: Cli, labels: Path) -> None:
    wrong = cli("data", "check", labels, "--workers", "0", "--set", "data.segmentation.labels=plain")
    assert wrong.code == 2
    assert "setting: " in wrong.out
    assert "data.segmentation.labels=shifted" in wrong.out
    mistyped = cli("data", "check", labels, "--set", "data.segmentation.labels=shiftet")
    assert (mistyped.code, "'auto', 'plain' or 'shifted'" in mistyped.err) == (2, True)
    unknown = cli("data", "check", labels, "--set", "data.segmentation.lables=shifted")
    assert (unknown.code, "did you mean labels" in unknown.err) == (2, True)
    assert cli("data", "check", labels, "--set", "train.epochs=3").code == 2
    assert cli("data", "preview", labels, "--task", "depth").code == 2


def test_masks_in_jpeg_are_refused_with_a_hint(cli: Cli, labels: Path) -> None:
    for mask in (labels / "annotations" / "validation").iterdir():
        with Image.open(mask) as picture:
            picture.convert("L").save(mask.with_suffix(".jpg"))
        mask.unlink()
    drawn = cli("data", "preview", labels, "--split", "val")
    assert drawn.code == 2
    assert "JPEG changes the values of labels" in drawn.err


def test_a_folder_called_like_a_data_set(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "nyu").mkdir()
    told = cli("data", "check", "nyu")
    assert told.code == 2
    assert "write ./nyu" in told.err


def test_colour_coded_masks_are_refused_with_a_hint(cli: Cli, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind / "train").mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / kind / "train" / "a.png")
    (tmp_path / "set" / "classes.txt").write_text("sky\nroad\n")
    drawn = cli("data", "preview", "set")
    assert drawn.code == 2
    assert drawn.err.startswith("error: set/masks/train/a.png is a colour-coded mask (RGB)")
    assert "hint: name each class's colour in classes.txt" in drawn.err


def test_check_and_preview_of_depth(cli: Cli, tmp_path: Path) -> None:
    cli("data", "export", "scenes", "--layout", "nyu", "--to", "data/nyu", "--train", "2", "--val", "1", "--size", "64")
    document = json.loads(cli("data", "check", "nyu", "--workers", "0", "--json").out)
    assert document["images"] == {"train": 2, "val": 1}
    wrong = cli("data", "check", "data/nyu", "--workers", "0", "--set", "data.depth.scale=1")
    assert "data.depth.scale=1000" in wrong.out
    drawn = cli("data", "preview", "data/nyu", "-o", "d.png", "--count", "1", "--size", "64")
    assert (drawn.code, (tmp_path / "d.png").is_file()) == (0, True), drawn.err


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_scenes_of_each_task(cli: Cli, tmp_path: Path, task: str) -> None:
    drawn = cli(
        "data", "preview", "scenes", "--task", task, "-o", "s.png", "--count", "1", "--copies", "1", "--size", "64"
    )
    assert (drawn.code, (tmp_path / "s.png").is_file()) == (0, True), drawn.err
