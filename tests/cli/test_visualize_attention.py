"""`pvtctl visualize` attention, position-embeddings and architecture: what is written, and how bad input is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_run import Cli


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (90, 60), (40, 90, 200)).save(path)
    return path


def test_attention_of_a_run(cli: Cli, smoke_run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.svg"
    arguments = ["--weights", smoke_run, "--block", "stage2.block1", "--head", "2", "--query", "80,10", "--out", out]
    result = cli("visualize", "attention", photo, *arguments, "--json")
    assert result.code == 0, result.err
    assert "images at a short side of 32 pixels" in result.err
    assert "random weights" not in result.err
    assert out.read_bytes().startswith(b"<?xml")
    (picture,) = result.json["pictures"]
    assert picture["files"] == [str(out)]
    assert picture["size"] == [32, 48]
    assert picture["maps"][0]["queries"] == [[0, 5]]
    assert picture["maps"][0]["map"] == [4, 6]
    assert picture["maps"][0]["keys"] == [1, 1]
    again = cli("visualize", "attention", photo, *arguments)
    assert again.code == 2
    assert "is there already" in again.err


def test_a_folder_gives_a_gallery(cli: Cli, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(photo.read_bytes())
    (tmp_path / "photos" / "c.jpg").write_text("no image")
    options = ["--backbone", "pvt_v2_b0", "--size", "32", "--block", "stage2,last", "--rollout"]
    result = cli("visualize", "attention", "photos", *options)
    assert result.code == 0, result.err
    assert "random weights" in result.err
    assert "skipped c.jpg" in result.err
    out = tmp_path / "runs" / "visualize-attention-photos"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "index.html"]


def test_a_point_outside_of_a_later_image_is_told_before_any_is_drawn(cli: Cli, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(photo.read_bytes())
    Image.new("RGB", (40, 60)).save(tmp_path / "photos" / "b.png")
    options = ["--backbone", "pvt_v2_b0", "--size", "32", "--query", "80,10", "--out", "maps"]
    result = cli("visualize", "attention", "photos", *options)
    assert result.code == 2
    assert "outside of b.png, which is 40 wide" in result.err
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--query", "90,3"], "the query point 90,3 is outside of photo.jpg, which is 90 wide and 60 high"),
        (["--query", "here"], "--query 'here' is not a point of an image"),
        (["--query", "class"], "has no class token"),
        (["--block", "stage9"], "no block 'stage9'; this backbone has stage1.block1, stage1.block2"),
        (["--block", "stage1", "--head", "2"], "stage1.block2 has no head '2': it has one head, 1"),
        (["--head", "all", "--rollout"], "--rollout takes the mean over heads"),
        (["--size", "7"], "out of range"),
        (["--backbone", "resnet18"], "a ResNet has no attention"),
        (["--backbone", "pvt_v2_b00"], "no backbone is called"),
        (["--out", "photo.jpg"], "--out photo.jpg: pictures are .png or .svg"),
        (["--out", "a.svg", "--format", "png"], "--out a.svg is no .png"),
    ],
)
def test_bad_input_of_attention(cli: Cli, photo: Path, options: list[str], said: str) -> None:
    result = cli("visualize", "attention", photo.name, "--backbone", "pvt_v2_b0", "--size", "32", *options)
    assert result.code == 2, result.err
    assert said in result.err
    assert "hint: " in result.err


def test_files_that_are_no_images(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    result = cli("visualize", "attention", "notes.png", "--backbone", "pvt_v2_b0")
    assert result.code == 2
    assert "notes.png: not an image" in result.err
    missing = cli("visualize", "attention", "nothing.jpg", "--backbone", "pvt_v2_b0")
    assert missing.code == 2
    assert "no file or folder nothing.jpg" in missing.err
    assert not (tmp_path / "runs").exists()


def test_position_embeddings(cli: Cli, tmp_path: Path) -> None:
    command = ["visualize", "position-embeddings"]
    result = cli(*command, "--backbone", "deit_tiny_patch16", "--size", "64x96", "--cells", "2", "--json")
    assert result.code == 0, result.err
    assert "random weights" in result.err
    (picture,) = result.json["pictures"]
    assert picture["tables"] == [{"name": "patches", "grids": [[14, 14], [4, 6]]}]
    assert (tmp_path / picture["files"][0]).is_file()
    none = cli(*command, "--backbone", "pvt_v2_b0")
    assert none.code == 2
    assert "PVT v2 has none: its positions come from" in none.err
    same = cli(*command, "--backbone", "deit_tiny_patch16", "--size", "224")
    assert same.code == 2
    assert "nothing is resized" in same.err


def test_architecture(cli: Cli, tmp_path: Path) -> None:
    command = ["visualize", "architecture", "--backbone"]
    result = cli(*command, "pvt_v2_b0,resnet18", "--size", "64,64x96", "--format", "both", "--json")
    assert result.code == 0, result.err
    first, second = result.json["pictures"]
    assert second["size"] == [64, 96]
    assert [model["name"] for model in first["models"]] == ["pvt_v2_b0", "resnet18"]
    assert [Path(name).name for name in first["files"]] == ["64x64.png", "64x64.svg"]
    assert Path(result.json["gallery"]).is_file()
    unknown = cli(*command, "pvt_smal")
    assert unknown.code == 2
    assert "no backbone is called 'pvt_smal'" in unknown.err
