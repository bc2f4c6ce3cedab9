"""Splits of label maps: layouts, class lists, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_sets import mask_set, photo, stripes, write

from pvtctl.data.layouts import guess_layout
from pvtctl.data.loader import Loader
from pvtctl.data.samplers import Draw, EvalSampler, TrainSampler
from pvtctl.data.scenes.export import export_scenes
from pvtctl.data.scenes.scene import SEMANTIC_CLASSES, render_scene
from pvtctl.errors import UsageError
from pvtctl.tasks.segmentation.class_lists import ADE20K_CLASSES, PASCAL_CONTEXT_CLASSES, UNKNOWN, read_class_list
from pvtctl.tasks.segmentation.data import find_classes, open_segmentation_split
from pvtctl.tasks.segmentation.settings import SegmentationData

SMALL = {"short_side": 32, "long_side": 128, "crop": (32, 32), "test_short_side": 32, "test_long_side": 128}


def opened(name, root, split="train", training=False, *, samples=None, image_size=48, seed=0, **options):
    settings = SegmentationData(**{**SMALL, **options})
    return open_segmentation_split(
        name, root, split, settings=settings, training=training, samples=samples, image_size=image_size, seed=seed
    )


def refused(*args, **options) -> UsageError:
    with pytest.raises(UsageError) as caught:
        opened(*args, **options)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def target(dataset, index=0) -> np.ndarray:
    return dataset[index].target.numpy()


def test_masks_without_any_class_are_refused_before_training(tmp_path):
    empty, some = stripes([255, 255]), stripes([0, 255])
    root = mask_set(tmp_path / "a", {"train": [empty] * 9, "val": [some]})
    assert "no pixel of the masks" in refused("masks", root).message
    root = mask_set(tmp_path / "b", {"train": [empty, some, *[empty] * 7], "val": [some]})
    assert len(opened("masks", root)) == 9, "those that are looked at first are empty, another is not"


def test_a_folder_of_masks(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1, 2, 3]), stripes([2, 255])], "val": [stripes([1, 0])]})
    data = opened("masks", root)
    assert data.class_names == ["sky", "road", "car"]  # void is none
    assert data.ids == ["000.jpg", "001.jpg"]
    assert np.array_equal(target(data), stripes([0, 1, 2, 255]))
    assert np.array_equal(target(data, 1), stripes([2, 255]))
    assert data[0].image.shape == (3, 32, 64)  # 32 x 45, up to a multiple of 32
    assert data.read(0)[0].shape == (3, 40, 56)
    assert np.array_equal(target(opened("masks", root, "val")), stripes([1, 0]))


def test_settings_say_what_the_values_are(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1, 2, 3])]})
    everything = opened("masks", root, ignore=())
    assert everything.class_names[-1] == "void"
    assert target(everything).max() == 3
    assert np.array_equal(target(opened("masks", root, ignore=(1, 3))), stripes([0, 255, 1, 255]))
    shifted = opened("masks", root, labels="shifted", ignore=())
    assert np.array_equal(target(shifted), stripes([255, 0, 1, 2]))
    (root / "other.txt").write_text("1 a\n2 b\n3 c\n")
    from_one = opened("masks", root, classes=str(root / "other.txt"))
    assert from_one.class_names == ["a", "b", "c"]
    assert np.array_equal(target(from_one), stripes([255, 0, 1, 2]))


def test_the_class_list_is_part_of_the_fingerprint(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1, 2, 3])]})
    prints = {opened("masks", root).fingerprint(), opened("masks", root, ignore=(2, 3)).fingerprint()}
    assert len(prints) == 2
    assert opened("masks", root).fingerprint() in prints


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "palette", "palette of 4 bits", "1 bit", "colours"])
def test_kinds_of_masks(tmp_path, kind):
    labels = stripes([0, 1]) if kind == "1 bit" else stripes([0, 1, 2, 3])
    root = mask_set(tmp_path, {"train": [labels]}, "0 sky 1 2 3\n1 road 9 9 9\n2 car 0 0 0\n3 void 255 255 255\n")
    file = root / "annotations" / "train" / "000.png"
    if kind == "16 bits":
        write(file, labels.astype(np.uint16))
    elif kind == "1 bit":
        Image.fromarray(labels > 0).save(file)
    elif kind.startswith("palette"):
        image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 7, 7, 7])
        image.save(file, **({"bits": 4} if "4" in kind else {}))
    elif kind == "colours":
        write(file, np.array([[1, 2, 3], [9, 9, 9], [0, 0, 0], [255, 255, 255]], np.uint8)[labels])
    data = opened("masks", root)
    assert data.source.palette == [(1, 2, 3), (9, 9, 9), (0, 0, 0)]
    assert np.array_equal(target(data), np.where(labels == 3, 255, labels))


def test_values_beyond_a_byte(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([300, 7000, 0], dtype=np.uint16)]}, "300 sky\n7000 road\n")
    assert np.array_equal(target(opened("masks", root)), stripes([0, 1, 255]))


def test_camvid(shared):
    data = opened("masks", shared / "data" / "camvid", "val")
    assert (len(data), len(data.class_names)) == (40, 11)
    assert data.class_names[3] == "road"
    raw = np.asarray(Image.open(shared / "data" / "camvid" / "annotations" / "val" / data.ids[5]))
    assert np.array_equal(target(data, 5), np.where(raw == 11, 255, raw))


def test_ade20k_is_shifted(shared):
    root = shared / "data" / "ade20k_sample"
    data = opened("ade20k", root, "val")
    assert data.class_names == list(ADE20K_CLASSES)  # objectInfo150.txt says the same as the built-in list
    raw = np.asarray(Image.open(root / "annotations" / "validation" / "ADE_val_00000001.png"))
    found = target(data)
    assert np.array_equal(found, np.where(raw == 0, 255, raw.astype(int) - 1))
    named = {data.class_names[label] for label in np.unique(found) if label != 255}
    assert {"building", "sky", "road", "tree"} <= named


def test_ade20k_without_a_list_of_names(tmp_path):
    write(tmp_path / "images" / "training" / "a.jpg", photo(0))
    write(tmp_path / "annotations" / "training" / "a.png", stripes([0, 1, 150]))
    data = opened("ade20k", tmp_path)
    assert (len(data.class_names), data.class_names[0], data.class_names[149]) == (150, "wall", "flag")
    assert np.array_equal(target(data), stripes([255, 0, 149]))
    assert "value 150 in" in refused("ade20k", tmp_path, labels="plain").message


OWN = "grass\nroad\ncar\n"


@pytest.mark.parametrize(
    ("listed", "labels", "label_of"),
    [
        (OWN, "auto", [0, 1, 2, None]),
        (OWN, "plain", [0, 1, 2, None]),
        (OWN, "shifted", [255, 0, 1, 2]),
        ("1 grass\n2 road\n3 car\n", "auto", [255, 0, 1, 2]),
        ("0 grass\n1 road\n3 car\n", "auto", [0, 1, None, 2]),
        ("\n".join(ADE20K_CLASSES), "auto", [255, 0, 1, 2]),
        ("\n".join(ADE20K_CLASSES[:149]), "auto", [0, 1, 2, 3]),
        ("\n".join(ADE20K_CLASSES[::-1]), "auto", [0, 1, 2, 3]),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_the_shift_of_ade20k_is_for_its_own_classes(tmp_path, listed, labels, label_of, named):
    """Not for what lies in its layout; a `None` is a value without a class."""
    (tmp_path / ("mine.txt" if named else "classes.txt")).write_text(listed)
    stated = SegmentationData(labels=labels, classes=str(tmp_path / "mine.txt") if named else None)
    table = find_classes("ade20k", tmp_path, stated).table()
    assert table[:4].tolist() == [UNKNOWN if label is None else label for label in label_of]


@pytest.mark.parametrize(("labels", "first"), [("auto", 255), ("shifted", 255), ("plain", 0)])
@pytest.mark.parametrize("name", ["ade20k", "masks"])
def test_the_list_of_ade20k_itself_counts_from_1(tmp_path, name, labels, first):
    rows = [f"{at}\t0.1\t9\t9\t{each}, or so" for at, each in enumerate(ADE20K_CLASSES, 1)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert find_classes(name, tmp_path, SegmentationData(labels=labels)).table()[0] == first


def test_exported_scenes_are_read_back(tmp_path):
    export_scenes(tmp_path / "set", "ade20k", train=2, val=1, size=48)
    data = opened("ade20k", tmp_path / "set", "val")
    rendered = opened("scenes", None, "val", samples=1)
    assert data.class_names == rendered.class_names == list(SEMANTIC_CLASSES)
    assert np.array_equal(target(data), target(rendered))
    assert np.array_equal(target(rendered), render_scene(0, "val", 0, 48).semantic)


def test_pascal_context(tmp_path):
    for number, stem in enumerate(("2008_000002", "2008_000003", "2008_000007")):
        write(tmp_path / "JPEGImages" / f"{stem}.jpg", photo(number))
        write(tmp_path / "SegmentationClassContext" / f"{stem}.png", stripes([0, 1, 59]))
    lists = tmp_path / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000007\n2008_000002\n")
    data = opened("pascal_context", tmp_path)
    assert data.ids == ["2008_000002.jpg", "2008_000007.jpg"]
    assert (len(data.class_names), data.class_names[0], data.class_names[59]) == (60, "background", "wood")
    assert np.array_equal(target(data), stripes([0, 1, 59]))
    of_59 = opened("pascal_context", tmp_path, labels="shifted")
    assert of_59.class_names == list(PASCAL_CONTEXT_CLASSES[1:])
    assert np.array_equal(target(of_59), stripes([255, 0, 58]))
    assert "val.txt" in refused("pascal_context", tmp_path, "val").message
    (lists / "train.txt").write_text("2008_000009\n")
    assert "2008_000009" in refused("pascal_context", tmp_path).message


@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path, kind):
    stem = "ulm_000001_000019"
    write(tmp_path / "leftImg8bit" / "train" / "ulm" / f"{stem}_leftImg8bit.png", photo(0))
    values = [7, 0, 33, 4, 255] if kind == "labelIds" else [0, 255, 18, 255, 255]
    write(tmp_path / "gtFine" / "train" / "ulm" / f"{stem}_gtFine_{kind}.png", stripes(values))
    write(tmp_path / "gtFine" / "train" / "ulm" / f"{stem}_gtFine_instanceIds.png", stripes([9000], dtype=np.uint16))
    data = opened("cityscapes", tmp_path)
    assert data.ids == [f"ulm/{stem}_leftImg8bit.png"]
    assert (len(data.class_names), data.class_names[18], data.source.palette[0]) == (19, "bicycle", (128, 64, 128))
    assert np.array_equal(target(data), stripes([0, 255, 18, 255, 255]))
    assert "count from 0" in refused("cityscapes", tmp_path, labels="shifted").message


def test_scenes_have_fifteen_classes():
    data = opened("scenes", None, "train", training=True, samples=3)
    assert (len(data), len(data.class_names)) == (3, 15)
    assert data[0].target.shape == (32, 32)
    assert opened("scenes", None, "val", samples=2).fingerprint() != data.fingerprint()


def test_samples_are_spread_over_the_split(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])] * 6})
    assert opened("masks", root, samples=3).ids == ["000.jpg", "002.jpg", "004.jpg"]


# what is refused


def test_values_outside_the_classes_are_told_when_the_split_is_opened(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1, 2, 3, 9])]})
    error = refused("masks", root)
    assert "000.png has the value 9" in error.message
    assert "3 classes, values 0 to 2" in error.message
    assert "data.segmentation.ignore=[9]" in error.hint


def test_one_value_above_the_classes_suggests_the_shift(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1, 2, 3])]}, "sky\nroad\ncar\n")
    assert "data.segmentation.labels=shifted" in refused("masks", root).hint
    assert np.array_equal(target(opened("masks", root, labels="shifted")), stripes([255, 0, 1, 2]))
    (root / "classes.txt").write_text("1 sky\n2 road\n3 car\n")
    assert "ignore=[0]" in refused("masks", root, labels="plain").hint


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_values_outside_the_classes_never_reach_the_loss(tmp_path, workers, training):
    maps = [stripes([0, 1, 2])] * 9
    maps[2] = stripes([0, 77])  # none of those that are looked at when the split is opened
    data = opened("masks", mask_set(tmp_path, {"train": maps}), training=training)
    sampler = TrainSampler(9, batch_size=3) if training else EvalSampler(9, batch_size=3)
    with pytest.raises(UsageError) as caught:
        list(Loader(data, sampler, workers=workers))
    assert "002.png has the value 77" in caught.value.message
    assert "\n" not in caught.value.message
    assert "data.segmentation.ignore=[77]" in caught.value.hint


def test_colour_coded_masks_without_colours(tmp_path):
    root = mask_set(tmp_path, {"train": [photo(3)]})
    error = refused("masks", root)
    assert "000.png is a colour-coded mask (RGB)" in error.message
    assert "classes.txt" in error.hint


def test_colours_that_no_class_has(tmp_path):
    colours = np.array([[1, 2, 3], [9, 9, 9]], np.uint8)[stripes([0, 1])]
    colours[7, 11] = (1, 2, 4)
    root = mask_set(tmp_path, {"train": [colours]}, "sky 1 2 3\nroad 9 9 9\n")
    assert "(1, 2, 4) at row 7, column 11" in refused("masks", root).message


def test_images_without_masks(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])] * 8})
    for number in range(1, 8):
        (root / "annotations" / "train" / f"00{number}.png").unlink()
    error = refused("masks", root)
    assert "7 of 8 images have no mask" in error.message
    assert "001.jpg, 002.jpg, 003.jpg, 004.jpg, 005.jpg, ..." in error.message


def test_yolo_labels_are_no_masks(tmp_path):
    write(tmp_path / "images" / "train" / "a.jpg", photo(0))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 1 1")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert "--from yolo" in refused("masks", tmp_path).hint


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/train", "labels/train"),
        ("images/train", "masks/train"),
        ("train/images", "train/masks"),
        ("train", "trainannot"),
    ],
)
def test_places_of_masks(tmp_path, images, masks):
    write(tmp_path / images / "deeper" / "a.b.jpg", photo(0))
    write(tmp_path / masks / "deeper" / "a.b.png", stripes([0, 1]))
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    assert guess_layout(tmp_path) == "masks"
    assert opened("masks", tmp_path).ids == ["deeper/a.b.jpg"]


def test_masks_without_images_are_left_alone(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])] * 2})
    (root / "images" / "train" / "000.jpg").unlink()
    assert opened("masks", root).ids == ["001.jpg"]


def test_another_size_than_the_image_is_skipped(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])] * 2})
    write(root / "annotations" / "train" / "000.png", stripes([0, 1], (40, 50)))
    sample = opened("masks", root, training=True)[Draw(0, 0)]
    assert sample.id == "001.jpg"
    assert "56x40 pixels, but its map is 50x40" in sample.skipped[0].reason
    assert opened("masks", root)[0].skipped[0].id == "000.jpg"


def test_masks_that_are_no_images_are_skipped(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])] * 2})
    (root / "annotations" / "train" / "000.png").write_bytes(b"not an image")
    assert opened("masks", root, training=True)[Draw(0, 0)].skipped[0].id == "000.jpg"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sky, road, car\n", "no class name"),
        ("sky\n", "has 1 class"),
        ("sky\nvoid\n", "has 1 class"),
        ("", "has 0 classes"),
        ("sky\nsky\n", "twice"),
        ("0 sky\n0 road\n", "twice"),
        ("0 sky\nroad\n", "some classes have a number"),
        ("sky 1 2 3\nroad\n", "some classes have a colour"),
        ("sky 1 2 3\nroad 1 2 3\n", "twice"),
        ("sky 1 2 300\nroad 1 2 3\n", "no colour"),
        ("0 sky\n70000 road\n", "70000"),
        ("\n".join(f"c{number}" for number in range(300)), "more than 254"),
    ],
)
def test_class_lists_that_are_refused(tmp_path, text, told):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])]}, text)
    assert told in refused("masks", root).message


def test_a_class_list_that_is_a_text(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 1])]}, None)
    error = refused("masks", root, classes="sky,road")
    assert "'sky,road' cannot be read: No such file" in error.message
    assert "names a file" in error.hint
    assert "no class list" in refused("masks", root).message


def test_class_lists_in_their_forms(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("# of my own\n\n0: traffic light 250 170 30\n1, sky 70,130,180\n3; void 0 0 0\n")
    classes = read_class_list(file, shifted=None)
    assert classes.names == ["traffic light", "sky"]
    assert classes.palette == [(250, 170, 30), (70, 130, 180)]
    assert (classes.values, classes.ignored, classes.ignored_colours) == ([0, 1], (3,), ((0, 0, 0),))
    file.write_text("\ufeffsky\nClass 5\n")
    assert read_class_list(file, shifted=None).names == ["sky", "Class 5"]


def test_folders_that_are_not_there(tmp_path):
    assert "no data folder" in refused("masks", tmp_path / "nowhere").message
    assert "no folder" in refused("ade20k", tmp_path).message
    root = mask_set(tmp_path / "set", {"train": [stripes([0, 1])]})
    assert "val" in refused("masks", root, "val").message
    assert "no split 'test'" in refused("masks", root, "test").message
    assert "did you mean" in refused("mask", root).hint


# randomness


@pytest.mark.parametrize("workers", [2])
def test_same_bits_for_any_number_of_workers(tmp_path, workers):
    data = opened(
        "masks", mask_set(tmp_path, {"train": [stripes([0, 1, 2], (40 + n, 50)) for n in range(6)]}), training=True
    )
    alone, many = (Loader(data, TrainSampler(6, batch_size=2), workers=number) for number in (0, workers))
    for one, other in zip(alone, many, strict=True):
        assert torch.equal(one.images, other.images)
        assert all(torch.equal(a, b) for a, b in zip(one.targets, other.targets, strict=True))
        assert one.ids == other.ids
    again = opened("masks", tmp_path, training=True, seed=1)
    assert torch.equal(data[Draw(3, 2)].image, data[Draw(3, 2)].image)
    assert not torch.equal(data[Draw(3, 2)].image, data[Draw(4, 2)].image)
    assert not torch.equal(data[Draw(3, 2)].image, again[Draw(3, 2)].image)
