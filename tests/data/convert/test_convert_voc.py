"""Pascal-VOC XML becomes COCO JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvtctl.data.convert.to_coco import convert_to_coco
from pvtctl.errors import UsageError
from pvtctl.tasks.detection.coco import CocoAnnotations, find_coco

CAT = ("cat", (1, 1, 60, 40), 0)


def write_image(path: Path, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 90, 160)).save(path)


def write_xml(path: Path, *objects: tuple[str, tuple[Any, ...], int], name: str = "", size: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"<filename>{name or path.stem + '.jpg'}</filename>", size]
    for label, box, difficult in objects:
        corners = "".join(
            f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        parts.append(
            f"<object><name>{label}</name><difficult>{difficult}</difficult>\n<bndbox>{corners}</bndbox></object>"
        )
    path.write_text("<annotation>\n" + "\n".join(parts) + "\n</annotation>\n")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2007"
    for name in ("000001", "000002", "000003", "000004"):
        write_image(root / "JPEGImages" / f"{name}.jpg")
    write_xml(root / "Annotations" / "000001.xml", CAT, ("dog", (11, 11, 20, 30), 1))
    write_xml(root / "Annotations" / "000002.xml", ("ant", (5, 6, 7, 8), 0))
    write_xml(root / "Annotations" / "000003.xml")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("000001\n000003\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("000002 \n")
    return root


def load(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_the_devkit(devkit: Path, tmp_path: Path) -> None:
    done = convert_to_coco(devkit, "voc", tmp_path / "coco")
    assert done.classes == ["ant", "cat", "dog"]
    assert (done.images, done.objects, done.split_by) == ({"train": 2, "val": 1}, {"train": 2, "val": 1}, "lists")
    assert {note.kind: note.count for note in done.notes} == {"no_labels": 1, "difficult": 1}
    train = load(tmp_path / "coco", "train")
    assert [image["file_name"] for image in train["images"]] == ["000001.jpg", "000003.jpg"]
    cat, dog = train["annotations"]
    assert (cat["bbox"], cat["area"], cat["iscrowd"], cat["category_id"]) == ([0, 0, 60, 40], 2400, 0, 2)
    assert (dog["bbox"], dog["iscrowd"]) == ([10, 10, 10, 20], 1)
    folder, file = find_coco(tmp_path / "coco", "train")
    annotations = CocoAnnotations.read(file)
    assert annotations.problems == {}
    assert (folder / annotations.file_names[0]).samefile(devkit / "JPEGImages" / "000001.jpg")


def test_copies(devkit: Path, tmp_path: Path) -> None:
    convert_to_coco(devkit, "voc", tmp_path / "coco", copy=True)
    copied = tmp_path / "coco" / "images" / "train" / "000001.jpg"
    original = devkit / "JPEGImages" / "000001.jpg"
    assert not copied.samefile(original)
    assert copied.read_bytes() == original.read_bytes()


def test_bccd_is_what_its_published_json_says(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "bccd"
    (tmp_path / "names.txt").write_text("RBC\nWBC\nPlatelets\n")
    done = convert_to_coco(root, "voc", tmp_path / "out", classes=tmp_path / "names.txt", zero_based=True)
    assert (done.split_by, done.objects) == ("folders", {"train": 2804, "val": 1137})
    assert {note.kind: note.count for note in done.notes} == {"no_area": 2}
    for split in ("train", "val"):
        ours, theirs = load(tmp_path / "out", split), load(root, split)
        assert [(c["id"], c["name"]) for c in ours["categories"]] == [
            (c["id"], c["name"]) for c in theirs["categories"]
        ]
        for document in (ours, theirs):
            names = {image["id"]: image["file_name"] for image in document["images"]}
            document["rows"] = [
                (names[a["image_id"]], a["category_id"], a["bbox"], a["area"]) for a in document["annotations"]
            ]
        assert ours["rows"] == theirs["rows"]
    told = convert_to_coco(root, "voc", tmp_path / "one").notes
    assert {note.kind for note in told} <= {"no_area", "cut", "from_zero"}


def test_folders_name_the_splits_and_pick_among_equal_names(tmp_path: Path) -> None:
    root = tmp_path / "test" / "set"  # folders above the source name nothing
    for split in ("train", "valid", "test"):
        write_image(root / "images" / split / "a.jpg", (60, 40 + len(split)))
        write_xml(root / "labels" / split / "a.xml", CAT)
    done = convert_to_coco(root, "voc", tmp_path / "coco")
    assert (done.images, done.split_by) == ({"train": 1, "val": 1}, "folders")
    assert {note.kind: note.examples for note in done.notes} == {"test": ["images/test/a.jpg"]}
    assert load(tmp_path / "coco", "val")["images"][0]["height"] == 45


def test_a_share_becomes_val_and_does_not_depend_on_the_place(tmp_path: Path) -> None:
    chosen = []
    for place in ("one", "two"):
        for number in range(10):
            write_image(tmp_path / place / "in" / f"{number}.jpg")
            write_xml(tmp_path / place / "in" / f"{number}.xml", CAT)
        done = convert_to_coco(tmp_path / place / "in", "voc", tmp_path / place / "out", val_share=0.3, seed=1)
        assert (done.images, done.split_by) == ({"train": 7, "val": 3}, "share")
        chosen.append([image["file_name"] for image in load(tmp_path / place / "out", "val")["images"]])
    assert chosen[0] == chosen[1]
    assert convert_to_coco(tmp_path / "one" / "in", "voc", tmp_path / "by_default").images == {"train": 8, "val": 2}
    convert_to_coco(tmp_path / "one" / "in", "voc", tmp_path / "seed2", val_share=0.3, seed=2)
    assert [image["file_name"] for image in load(tmp_path / "seed2", "val")["images"]] != chosen[0]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_image(root / "a.jpg")
    write_image(root / "renamed.jpg")
    (root / "broken.jpg").write_bytes(b"no image")
    size = "<size><width>99</width><height>40</height></size>"
    boxes = [("cat", box, 0) for box in ((10, 10, 100, 20), (70, 1, 80, 9), (30, 5, 20, 9), (0, 1, 9, 9))]
    write_xml(root / "a.xml", *boxes, size=size)
    write_xml(root / "other.xml", CAT, name="C:\\photos\\renamed.jpg", size="<size><width>0</width></size>")
    write_xml(root / "gone.xml", CAT)
    write_xml(root / "broken.xml", CAT)
    done = convert_to_coco(root, "voc", tmp_path / "out", val_share=0.5)
    assert {note.kind: note.count for note in done.notes} == {
        "no_image": 1,
        "unreadable": 1,
        "other_size": 1,
        "no_area": 2,
        "cut": 2,
        "from_zero": 1,
    }
    assert sum(done.objects.values()) == 3
    found = [a["bbox"] for split in ("train", "val") for a in load(tmp_path / "out", split)["annotations"]]
    assert [9, 9, 51, 11] in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "a.xml:1 is not valid XML: no element found"),
        ("<annotation>\n<object>\n</annotation>", "a.xml:3 is not valid XML: mismatched tag"),
        ("", "a.xml:1 is not valid XML: no element found"),
        ("<kml/>", "a.xml:1: not a Pascal-VOC annotation: the root is <kml>"),
        ('<!DOCTYPE a [<!ENTITY b "x">]>\n<annotation>&b;</annotation>', "a.xml:1 has a document type"),
        ("<annotation>\n\n<object><name/></object></annotation>", "a.xml:3: an object without a name"),
        ("<annotation>\n<object><name>cat</name></object></annotation>", "a.xml:2: cat has no bndbox"),
    ],
)
def test_broken_xml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.xml").write_text(text)
    with pytest.raises(UsageError) as caught:
        convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")
    assert caught.value.message.startswith(message)
    assert not (tmp_path / "out").exists()


def test_entities_in_another_encoding_are_refused_too(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE a [<!ENTITY b "x">]><annotation>&b;</annotation>'
    (tmp_path / "in" / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(UsageError, match="a document type"):
        convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")


@pytest.mark.parametrize("value", ["nan", "inf", "twelve", ""])
def test_boxes_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    write_xml(tmp_path / "in" / "a.xml", ("cat", (1, 1, value, 3), 0))
    with pytest.raises(UsageError, match=rf"a\.xml:5: xmax of cat is '{value}'"):
        convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")


def test_all_faults_are_counted_and_the_next_named(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    for number in range(7):
        write_image(tmp_path / "in" / f"{number}.jpg")
        write_xml(tmp_path / "in" / f"{number}.xml", ("cats", (1, 1, 9, 9), 0))
    with pytest.raises(UsageError) as caught:
        convert_to_coco(tmp_path / "in", "voc", tmp_path / "out", classes=tmp_path / "names.txt")
    assert caught.value.message == "0.xml:4: class 'cats' is not in the list of classes; did you mean cat?"
    assert "7 faults in all" in str(caught.value.hint)
    assert "4.xml:4" in str(caught.value.hint)


def test_one_image_described_twice(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.jpg")
    write_xml(tmp_path / "in" / "a.xml", CAT)
    write_xml(tmp_path / "in" / "b.xml", CAT, name="a.jpg")
    with pytest.raises(UsageError, match=r"b\.xml: a\.jpg is described by another file too"):
        convert_to_coco(tmp_path / "in", "voc", tmp_path / "out")


@pytest.mark.parametrize("where", ["in/out", "in"])
def test_the_source_stays_as_it_is(devkit: Path, tmp_path: Path, where: str) -> None:
    with pytest.raises(UsageError, match="is inside"):
        convert_to_coco(tmp_path, "voc", tmp_path / where)


def test_arguments(devkit: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice.txt").write_text("cat\ncat\n")
    for message, arguments in {
        "unknown layout 'pascal'": (devkit, "pascal", tmp_path / "out"),
        "no folder": (tmp_path / "nowhere", "voc", tmp_path / "out"),
        "is not empty": (devkit, "voc", tmp_path / "full"),
        "no XML file": (tmp_path / "empty", "voc", tmp_path / "out"),
    }.items():
        with pytest.raises(UsageError, match=message):
            convert_to_coco(*arguments)
    with pytest.raises(UsageError, match="cannot be used for val"):
        convert_to_coco(devkit, "voc", tmp_path / "out", val_share=1.0)
    with pytest.raises(UsageError, match="'cat' twice"):
        convert_to_coco(devkit, "voc", tmp_path / "out", classes=tmp_path / "twice.txt")
    with pytest.raises(UsageError, match=r"no labelled images in .*label files without an image .3.") as caught:
        convert_to_coco(devkit, "voc", tmp_path / "out", images=tmp_path / "empty")
    assert "--images" in str(caught.value.hint)
