"""Splits are as the source states them, rows mean what they say, and labels are in the frame of their picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvtctl.data.convert.to_coco import convert_to_coco
from pvtctl.errors import UsageError

BOX = "0 0.5 0.5 0.5 0.5\n"


def put(path: Path, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20), (len(str(path)) % 255, 9, 9)).save(path, exif=exif)


def yolo(root: Path, *images: str, row: str = BOX, yaml: str = "") -> Path:
    for name in images:
        put(root / "images" / f"{name}.jpg")
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(row)
    (root / "data.yaml").write_text(f"names: [cat]\n{yaml}")
    return root


def splits(out: Path) -> dict[str, list[str]]:
    found = {}
    for file in sorted((out / "annotations").iterdir()):
        names = [image["file_name"] for image in json.loads(file.read_text())["images"]]
        found[file.stem.removeprefix("instances_")] = sorted(names)
    return found


def boxes(out: Path, split: str) -> list[Any]:
    document = json.loads((out / "annotations" / f"instances_{split}.json").read_text())
    sizes = {image["id"]: [image["width"], image["height"]] for image in document["images"]}
    return [(sizes[each["image_id"]], each["bbox"]) for each in document["annotations"]]


SITES = ("a/0", "a/1", "b/0", "c/0", "c/2")


@pytest.mark.parametrize(
    ("yaml", "train", "val"),
    [
        ("train: images/a\nval: images/b", 2, 1),
        ("path: ../in\ntrain: [images/a, images/c]\nval: images/b", 4, 1),
        ("path: images\ntrain: a\nval: [b, c]", 2, 3),
        ("train: ../images/a\nvalid: ../images/b\ntest: ../images/c", 2, 1),  # as Roboflow writes it
        ("train: /content/set/images/a/\nval: /content/set/images/b/", 2, 1),  # left from another machine
        ("path: nowhere\ntrain: images/a\nval: images/b\ntest: images/none", 2, 1),
        ("train: train_list.txt\nval: lists/val.txt", 3, 1),
    ],
)
def test_data_yaml(tmp_path: Path, yaml: str, train: int, val: int) -> None:
    root = yolo(tmp_path / "in", *SITES, yaml=yaml)
    (root / "train_list.txt").write_text("./images/a/0.jpg\n/elsewhere/in/images/c/0.jpg\nimages\\a\\1.jpg\n\n")
    (root / "lists").mkdir()
    (root / "lists" / "val.txt").write_text("images/b/0.jpg\n")
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert (done.split_by, done.images) == ("yaml", {"train": train, "val": val})
    names = splits(tmp_path / "out")
    assert len(names["train"]) == train
    assert len(names["val"]) == val
    drawn = convert_to_coco(root, "yolo", tmp_path / "drawn", val_share=0.4)
    assert (drawn.split_by, drawn.images) == ("share", {"train": 3, "val": 2})


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/a\nval: images/a", "images/a/0.jpg and 1 more is in both train and val"),
        ("train: images\nval: images/b", "images/b/0.jpg is in both train and val"),
        ("train: images/a\nval: images/gone", r"`val: images/gone` names no folder of images"),
        ("train: [images/a, 3]\nval: images/b", "`train` is not a folder, a text file or a list"),
        ("train: images/a\nval: l.txt", "l.txt:2: images/b/9.jpg is not among the 5 images"),
        ("train: images/a\nval: empty.txt", "the split val has no image"),
    ],
)
def test_splits_that_cannot_be(tmp_path: Path, yaml: str, message: str) -> None:
    root = yolo(tmp_path / "in", *SITES, yaml=yaml)
    (root / "l.txt").write_text("images/b/0.jpg\nimages/b/9.jpg\n")
    (root / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=message) as error:
        convert_to_coco(root, "yolo", tmp_path / "out")
    assert "--val-share" in str(error.value.hint)
    assert not (tmp_path / "out").exists()


def test_lists_match_by_path(tmp_path: Path) -> None:
    root = yolo(tmp_path / "in", "a/0", "a/1", "b/0", "b/1")
    (root / "train.txt").write_text("\ufeffdata/obj/images/a/0.jpg\n./images/a/1.jpg\n")
    (root / "valid.txt").write_text("images/b/0.jpg\nimages/b/1.jpg\n")
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert (done.split_by, done.images) == ("lists", {"train": 2, "val": 2})
    (root / "valid.txt").write_text("images/b/0.jpg\nimages/a/1.jpg\n")
    with pytest.raises(UsageError, match=r"a/1.jpg is in both train and val"):
        convert_to_coco(root, "yolo", tmp_path / "more")
    (root / "valid.txt").write_text("0.jpg\n")
    with pytest.raises(UsageError, match=r"valid.txt:1: two images fit 0.jpg: images/a/0.jpg and images/b/0.jpg"):
        convert_to_coco(root, "yolo", tmp_path / "more")


def test_images_of_a_test_list_are_not_drawn_for_val(tmp_path: Path) -> None:
    root = yolo(tmp_path / "in", *SITES)
    (root / "train.txt").write_text("".join(f"images/{name}.jpg\n" for name in ("a/0", "a/1", "b/0")))
    (root / "test.txt").write_text("images/c/0.jpg\nimages/c/2.jpg\nimages/c/gone.jpg\n")
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert (done.split_by, sum(done.images.values())) == ("share", 3)
    assert [note.count for note in done.notes if note.kind == "test"] == [2]


def test_a_split_without_a_label_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    for split in ("train", "val"):
        put(root / "JPEGImages" / split / f"{split}.jpg")
    annotation = "<annotation><filename>train.jpg</filename></annotation>"
    (root / "train.xml").write_text(annotation)
    with pytest.raises(UsageError, match="a folder names a split val, and no image of it is labelled"):
        convert_to_coco(root, "voc", tmp_path / "out")


@pytest.mark.parametrize("shape", [[4, 2], [4, 3]])
def test_poses(tmp_path: Path, shape: list[int]) -> None:
    points = [(0.3, 0.3), (0.7, 0.3), (0, 0), (0.3, 0.7)]
    more = " 2" if shape[1] == 3 else ""
    row = "0 0.5 0.5 0.5 0.6 " + " ".join(f"{x} {y}{more}" for x, y in points) + "\n"
    root = yolo(tmp_path / "in", "train/0", "train/1", "val/0", row=row, yaml=f"kpt_shape: {shape}")
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert [(note.kind, note.count) for note in done.notes] == [("keypoints", 3)]
    assert boxes(tmp_path / "out", "val") == [([40, 20], [10, 4, 20, 12])]
    (root / "data.yaml").write_text("names: [cat]")
    with pytest.raises(UsageError, match=r"labels/train/0.txt:1: rows of \d+ numbers .* poses, not polygons") as error:
        convert_to_coco(root, "yolo", tmp_path / "other")
    assert "kpt_shape" in str(error.value.hint)
    (root / "data.yaml").write_text("names: [cat]\nkpt_shape: [7, 2]")
    with pytest.raises(UsageError, match="expected class cx cy w h and 14 of kpt_shape"):
        convert_to_coco(root, "yolo", tmp_path / "other")
    (root / "data.yaml").write_text("names: [cat]\nkpt_shape: 4")
    with pytest.raises(UsageError, match=r"kpt_shape in .* is not"):
        convert_to_coco(root, "yolo", tmp_path / "other")


def test_polygons_of_one_length_are_no_poses(tmp_path: Path) -> None:
    squares = "0 0.1 0.1 0.4 0.1 0.4 0.5 0.1 0.5\n0 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9\n"
    root = yolo(tmp_path / "in", "train/0", "train/1", "val/0", row=squares)
    assert convert_to_coco(root, "yolo", tmp_path / "out").objects == {"train": 4, "val": 2}


def test_labels_of_turned_photos_are_of_the_picture_as_shown(tmp_path: Path) -> None:
    root = yolo(tmp_path / "in", "train/0", "val/0", row="0 0.25 0.5 0.5 1\n")
    put(root / "images" / "val" / "0.jpg", orientation=6)
    done = convert_to_coco(root, "yolo", tmp_path / "out")
    assert [(note.kind, note.count) for note in done.notes] == [("turned", 1)]
    assert boxes(tmp_path / "out", "val") == [([20, 40], [0, 0, 10, 40])]
    done = convert_to_coco(root, "yolo", tmp_path / "stored", exif=False)
    assert [note.kind for note in done.notes] == ["not_turned"]
    assert boxes(tmp_path / "stored", "val") == [([40, 20], [0, 0, 20, 20])]


@pytest.mark.parametrize(("width", "height", "kind"), [(40, 20, "not_turned"), (20, 40, "turned"), (0, 0, "turned")])
def test_the_size_in_the_xml_tells_the_frame(tmp_path: Path, width: int, height: int, kind: str) -> None:
    for split in ("train", "val"):
        put(tmp_path / "in" / split / "0.jpg", orientation=8)
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox>"
        text = f"<annotation><filename>0.jpg</filename>{size}<object><name>cat</name>{box}</object></annotation>"
        (tmp_path / "in" / split / "0.xml").write_text(text)
    done = convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")
    assert [note.kind for note in done.notes] == [kind]
    assert boxes(tmp_path / "out", "val") == [([20, 40] if kind == "turned" else [40, 20], [0, 0, 20, 10])]


def test_pictures_of_masks_do_not_compete(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    for name in ("0", "1"):
        for folder in (
            "JPEGImages",
            "SegmentationClass",
            "SegmentationObject",
            "SegmentationClassVisualization",
            "masks",
        ):
            put(root / folder / f"{name}.{'jpg' if folder == 'JPEGImages' else 'png'}")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation><filename>{name}.jpg</filename></annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("1\n")
    assert convert_to_coco(root, "voc", tmp_path / "out").images == {"train": 1, "val": 1}
    assert splits(tmp_path / "out") == {"train": ["0.jpg"], "val": ["1.jpg"]}


def test_the_ending_in_the_xml_decides(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        put(tmp_path / "in" / "photos" / name)
    (tmp_path / "in" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": ["a.png"]}
