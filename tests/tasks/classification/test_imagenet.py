from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.data.class_names import imagenet_classes, imagenet_indices, readable_name, wnid_to_index
from pvtctl.data.find import find_data
from pvtctl.data.image_files import Names
from pvtctl.errors import UsageError
from pvtctl.tasks.classification.data import open_classification_split
from pvtctl.tasks.classification.layouts import ImageFolder


def test_classes_are_the_thousand_in_order(shared):
    listed = (shared / "data" / "imagenet1k_sample" / "imagenet1k_classes.txt").read_text().splitlines()
    assert list(imagenet_classes()) == [line.split()[0] for line in listed]


def test_class_list():
    assert len(wnid_to_index()) == 1000
    assert list(imagenet_classes()) == sorted(imagenet_classes())
    assert wnid_to_index()["n01443537"] == 1
    assert readable_name("n01443537") == "goldfish"
    assert readable_name("cat") == "cat"


def test_some_of_the_classes_are_scored_by_wnid():
    assert imagenet_indices(["n01440764", "n15075141"]) == [0, 999]
    assert imagenet_indices(["n01440764", "cat"]) is None


def test_layout(make_set):
    root = make_set(train=3, val=2)
    (root / "train" / "n01440764" / "notes.txt").write_text("not an image")
    (root / "train" / ".cache").mkdir()
    train, val = ImageFolder(root, "train"), ImageFolder(root, "val")
    assert train.class_names == val.class_names == ["n01440764", "n01443537"]
    assert list(train.labels) == [0, 0, 0, 1, 1, 1]
    assert train.ids[3] == "n01443537/n01443537_000.JPEG"
    assert train.read(0) == (root / "train" / train.ids[0]).read_bytes()


def test_val_alone_is_enough(make_set):
    assert len(ImageFolder(make_set(train=0, val=2), "val").ids) == 4


def test_names_keep_any_file_name():
    names = ["ä/ö.jpg", "x" * 100, "a b.PNG"]
    assert list(Names(names)) == names
    assert Names(names)[1:] == names[1:]
    assert Names(names)[-1] == names[-1]


def test_class_folders_that_differ_are_named(make_set):
    root = make_set()
    (root / "val" / "n01443537").rename(root / "val" / "n01484850")
    with pytest.raises(UsageError) as error:
        ImageFolder(root, "val")
    assert "1 only in val: n01484850; 1 only in train: n01443537" in error.value.message


def test_empty_class_is_named(make_set):
    root = make_set()
    for split in ("train", "val"):
        (root / split / "n01484850").mkdir()
    with pytest.raises(UsageError, match=r"1 class folder.* without images in .*train: n01484850"):
        ImageFolder(root, "train")


@pytest.mark.parametrize("state", ["missing", "empty", "no split", "loose images"])
def test_missing_or_empty_folder_shows_the_layout(tmp_path, image_bytes, state):
    root = tmp_path / "data"
    if state != "missing":
        (root / ("train" if state != "no split" else "other")).mkdir(parents=True)
    if state == "loose images":
        (root / "train" / "a.jpg").write_bytes(image_bytes())
    with pytest.raises(UsageError) as error:
        open_classification_split("imagenet", root, "train")
    assert "FOLDER/train/CLASS" in error.value.hint
    assert ("no class folders" in error.value.message) == (state in ("empty", "loose images"))


def test_find_data(tmp_path, monkeypatch, make_set):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PVTCTL_DATA", raising=False)
    with pytest.raises(UsageError) as error:
        find_data("imagenet")
    assert "data/imagenet" in error.value.message
    assert "pvtctl data export scenes" in error.value.hint
    (tmp_path / "data" / "imagenet").mkdir(parents=True)
    assert find_data("imagenet").samefile(tmp_path / "data" / "imagenet")
    (tmp_path / "store" / "imagenet").mkdir(parents=True)
    monkeypatch.setenv("PVTCTL_DATA", str(tmp_path / "store"))
    assert find_data("imagenet") == tmp_path / "store" / "imagenet"
    assert find_data("imagenet", make_set()) == tmp_path / "set"
    with pytest.raises(UsageError, match="no data folder nowhere"):
        find_data("imagenet", "nowhere")
    with pytest.raises(UsageError) as unknown:
        find_data("imagenette")
    assert unknown.value.hint == "did you mean imagenet?"
    with pytest.raises(UsageError) as absent:
        find_data("coco", "nowhere")
    assert "annotations/instances_{train,val}2017.json" in absent.value.hint
    assert find_data("scenes") == Path()


def test_fingerprint_follows_names_sizes_and_classes(make_set):
    root = make_set()
    first = open_classification_split("imagenet", root, "train").fingerprint()
    assert open_classification_split("imagenet", root, "train").fingerprint() == first
    assert open_classification_split("imagenet", root, "train", samples=4).fingerprint() != first
    file = root / "train" / "n01440764" / "n01440764_000.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    assert open_classification_split("imagenet", root, "train").fingerprint() != first


def test_samples_are_spread_over_the_classes(make_set):
    dataset = open_classification_split("imagenet", make_set(train=6), "train", samples=4)
    assert list(dataset.labels) == [0, 0, 1, 1]
    assert [dataset[index].label for index in range(4)] == [0, 0, 1, 1]
    assert [dataset[index].id for index in range(4)] == dataset.ids
