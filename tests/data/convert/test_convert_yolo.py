"""YOLO's text labels become COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvtctl.data.convert.to_coco import convert_to_coco
from pvtctl.errors import UsageError
from pvtctl.tasks.detection.coco import CocoAnnotations, find_coco


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (200, 100), (number * 50, 9, 9)).save(root / "images" / split / f"{number}.png")
        (root / "labels" / split / "0.txt").write_text("1 0.5 0.5 0.5 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n")
    return root


def load(root: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_boxes_and_polygons(source: Path, tmp_path: Path) -> None:
    done = convert_to_coco(source, "yolo", tmp_path / "out")
    assert (done.classes, done.images, done.objects) == (["cat", "dog"], {"train": 2, "val": 2}, {"train": 2, "val": 2})
    assert (done.notes, done.split_by) == ([], "yaml")
    document = load(tmp_path / "out")
    dog, cat = document["annotations"]
    assert (dog["category_id"], dog["bbox"], dog["area"], dog["segmentation"]) == (2, [50, 25, 100, 50], 5000, [])
    assert (cat["category_id"], cat["bbox"], cat["area"]) == (1, [20, 10, 40, 30], 600)
    assert cat["segmentation"] == [[20, 10, 60, 10, 60, 40]]
    annotations = CocoAnnotations.read(find_coco(tmp_path / "out", "train")[1])
    assert annotations.problems == {"no_mask": 1}  # boxes beside polygons
    assert annotations.num_objects().tolist() == [2, 0]


def test_flat_folders_with_a_list_of_names(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for number in range(5):
        Image.new("RGB", (10, 10)).save(root / f"{number}.jpg")
        (root / f"{number}.txt").write_text("0 0.5 0.5 1 1\n")
    (root / "classes.txt").write_text("\ufeffcat\n\n")
    (root / "train.txt").write_text("".join(f"data/obj/{number}.jpg\n" for number in range(3)))
    (root / "val.txt").write_text("data/obj/3.jpg\n")
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert (done.split_by, done.images) == ("lists", {"train": 3, "val": 1})
    assert [(note.kind, note.examples) for note in done.notes] == [("no_split", ["4.jpg"])]


def test_images_elsewhere(source: Path, tmp_path: Path) -> None:
    (source / "images").rename(tmp_path / "photos")
    done = convert_to_coco(source, "yolo", tmp_path / "out", images=tmp_path / "photos")
    assert (done.images, done.objects) == ({"train": 2, "val": 2}, {"train": 2, "val": 2})
    with pytest.raises(UsageError, match="no labelled images"):
        convert_to_coco(source, "yolo", tmp_path / "out2")


def test_linked_folders_are_followed_and_loops_are_not(source: Path, tmp_path: Path) -> None:
    (source / "images").rename(tmp_path / "photos")
    (source / "images").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "loop").symlink_to(source)
    assert convert_to_coco(source, "yolo", tmp_path / "out").images == {"train": 2, "val": 2}


def test_what_is_left_out_is_told(source: Path, tmp_path: Path) -> None:
    labels = source / "labels" / "train"
    (labels / "0.txt").write_text("0 1.2 0.5 0.1 0.1\n0 0.5 0.5 0 0.5\n0 0.95 0.5 0.3 0.3\n0 0.5 0.5 1.0001 1\n")
    (labels / "gone.txt").write_text("0 0.5 0.5 1 1\n")
    (source / "images" / "train" / "1.png").write_bytes(b"")
    done = convert_to_coco(source, "yolo", tmp_path / "out")
    assert {note.kind: note.count for note in done.notes} == {"no_image": 1, "unreadable": 1, "no_area": 2, "cut": 1}
    assert [a["bbox"] for a in load(tmp_path / "out")["annotations"]] == [[160, 35, 40, 30], [0, 0, 200, 100]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "4 numbers: expected class cx cy w h"),
        ("0 0.5 0.5 0.5 0.5 0.5", "6 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 numbers"),
        ("2 0.5 0.5 0.5 0.5", "class 2 is not one of the 2 classes, 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1 is not one"),
        ("0.5 0.5 0.5 0.5 0.5", "class 0.5 is not one"),
        ("0 120 80 30 30", "120 is not a share of the image: are these pixels?"),
        ("0 nan 0.5 0.5 0.5", "a number is not finite"),
        ("cat 0.5 0.5 0.5 0.5", "'cat 0.5 0.5 0.5 0.5' is not a row of numbers"),
    ],
)
def test_broken_lines_are_named(source: Path, tmp_path: Path, line: str, message: str) -> None:
    (source / "labels" / "val" / "1.txt").write_text(f"0 0.5 0.5 1 1\n\n{line}\n")
    with pytest.raises(UsageError) as caught:
        convert_to_coco(source, "yolo", tmp_path / "out")
    assert caught.value.message.startswith(f"labels/val/1.txt:3: {message}")
    assert not (tmp_path / "out").exists()


def test_a_label_file_that_is_no_text(source: Path, tmp_path: Path) -> None:
    (source / "labels" / "val" / "1.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UsageError, match=r"labels/val/1\.txt:1 is not UTF-8 text"):
        convert_to_coco(source, "yolo", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, cat]", "'cat' twice"),
        ("names: {1: cat, 2: dog}", "not numbered 0 to 1"),
        ("nc: 2", "has no `names`"),
        ("names: [", "data.yaml:1 is not plain YAML"),
        ("names: [[cat], dog]", "are not texts"),
        ("names: &a [cat, dog]\nmore: *a", "aliases are not taken"),
        ("names: []", "no class names"),
    ],
)
def test_names(source: Path, tmp_path: Path, text: str, message: str) -> None:
    (source / "data.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        convert_to_coco(source, "yolo", tmp_path / "out")
    (tmp_path / "names.txt").write_text("a b\nc\n")
    given = {"classes": tmp_path / "names.txt", "val_share": 0.5}  # nothing is left to be read of it
    assert convert_to_coco(source, "yolo", tmp_path / "out", **given).classes == ["a b", "c"]
    (source / "data.yaml").unlink()
    with pytest.raises(UsageError, match="no class names in"):
        convert_to_coco(source, "yolo", tmp_path / "out2")


def test_no_labels(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="no YOLO label file"):
        convert_to_coco(tmp_path / "in", "yolo", tmp_path / "out")
