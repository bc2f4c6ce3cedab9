"""`pvtctl data` on detection sets, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tiny_run import Cli


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    root.mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
    for number in range(4):
        Image.new("RGB", (60, 40), (50 * number, 9, 9)).save(root / f"{number}.jpg")
        (root / f"{number}.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    return root


def test_from_voc_to_a_verdict_and_a_picture(cli: Cli, voc: Path, tmp_path: Path) -> None:
    done = cli("data", "convert", voc, "--from", "voc", "--to", "data/coco", "--val-share", "0.25")
    assert (done.code, done.out) == (0, "data/coco\n")
    assert "train: 3 images, 3 objects" in done.err
    assert "val is drawn" in done.err
    checked = cli("data", "check", "coco", "--workers", "0")
    assert checked.code == 0, checked.out
    assert "verdict: ok: use it" in checked.out
    assert "cat" in checked.out
    document = json.loads(cli("data", "check", "data/coco", "--workers", "0", "--json").out)
    assert document["splits"]["train"]["classes"] == {"cat": 3}
    drawn = cli("data", "preview", "data/coco", "-o", "p.png", "--count", "2", "--size", "64")
    assert "p.png: 2 of 3 train images, 3 training views each" in drawn.err
    assert (tmp_path / "p.png").is_file()
    rows = {row["name"]: row for row in json.loads(cli("data", "ls", "--json").out)["rows"]}
    assert [rows["coco"][key] for key in ("where", "classes", "train", "val", "state")] == [
        "data/coco",
        1,
        3,
        1,
        "found",
    ]
    again = cli("data", "convert", voc, "--from", "voc", "--to", "data/coco")
    assert (again.code, again.err.splitlines()[0]) == (2, "error: data/coco is not empty")


def test_convert_says_what_was_left_out(cli: Cli, voc: Path) -> None:
    (voc / "3.jpg").unlink()
    done = cli("data", "convert", voc, "--from", "voc", "--to", "out", "--json")
    assert "note: label files without an image (1): left out (3.xml)" in done.err
    assert json.loads(done.out)["images"] == {"train": 2, "val": 1}
    assert cli("data", "convert", voc, "--from", "yolo", "--to", "out2", "--zero-based").code == 2
    (voc / "2.xml").write_text("<annotation>")
    broken = cli("data", "convert", voc, "--from", "voc", "--to", "out3")
    assert (broken.code, broken.err.splitlines()[0]) == (2, "error: 2.xml:1 is not valid XML: no element found")


def test_check_takes_a_pair(cli: Cli, voc: Path) -> None:
    cli("data", "convert", voc, "--from", "voc", "--to", "out")
    pair = ("--images", "out/images/val", "--annotations", "out/annotations/instances_val.json", "--workers", "0")
    checked = cli("data", "check", *pair)
    assert checked.code == 0
    assert "instances_val: 1 image" in checked.out
    Path("out/images/val").rename("out/images/gone")
    assert cli("data", "check", *pair).code == 2
    assert cli("data", "check", "out", *pair).err.startswith("error: name a folder, or --images and --annotations")
    assert cli("data", "check").code == 2
    assert cli("data", "check", *pair[:2]).code == 2


def test_preview_of_scenes_by_a_detection_recipe(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--recipe", "coco_retinanet_1x", "--row", "pvt_small", "--count", "1", "--size", "64", "--copies", "1")
    assert cli("data", "preview", "scenes", "-o", "s.png", *arguments).code == 0
    assert (tmp_path / "s.png").is_file()


def test_ls_says_how_to_get_public_sets(cli: Cli) -> None:
    listed = cli("data", "ls")
    assert "pvtctl data fetch coco" in listed.out
    assert "pvtctl data fetch ade20k" in listed.out
