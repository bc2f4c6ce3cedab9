from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pvtctl.errors import ExitCode, UsageError
from pvtctl.tasks.detection.coco import CocoAnnotations, find_coco
from pvtctl.tasks.detection.coco_file import load_coco, scan_coco

SQUARE = [1.0, 1.0, 9.0, 1.0, 9.0, 7.0, 1.0, 7.0]


def decode(rle: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' under numpy 2
        return coco_mask.decode(rle)


def coco(**changes: Any) -> dict[str, Any]:
    """Two images, three objects and a crowd; category ids with a gap."""
    stripe = np.zeros((20, 30), np.uint8, order="F")
    stripe[4:8, 10:20] = 1
    spelled = coco_mask.encode(stripe)["counts"].decode()
    data: dict[str, Any] = {
        "images": [
            {"id": 70, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 5, "file_name": "b.png", "height": 40, "width": 25},
        ],
        "annotations": [
            annotation(11, 5, 44, [2, 3, 10, 20], [SQUARE]),
            annotation(12, 70, 9, [1, 1, 8, 6], [SQUARE, [12.0, 2.0, 15.0, 2.0, 15.0, 6.0]]),
            annotation(13, 70, 44, [10, 4, 10, 4], {"size": [20, 30], "counts": spelled}),
            annotation(14, 70, 44, [0, 0, 30, 2], {"size": [20, 30], "counts": [0, 40, 560]}, iscrowd=1),
        ],
        "categories": [{"id": 44, "name": "tree"}, {"id": 9, "name": "house"}],
    }
    return data | changes


def annotation(key: int, image: int, category: int, box: Any, segmentation: Any = None, **more: Any) -> dict[str, Any]:
    found = {"id": key, "image_id": image, "category_id": category, "bbox": box, "area": 7.25, "iscrowd": 0}
    return found | ({} if segmentation is None else {"segmentation": segmentation}) | more


def with_annotation(**changes: Any) -> dict[str, Any]:
    data = coco()
    data["annotations"][1] |= changes
    return data


def test_reads_objects_of_each_image():
    read = CocoAnnotations(coco())
    assert (read.class_names, read.category_ids) == (["house", "tree"], [9, 44])
    assert list(read.file_names) == ["a.png", "b.png"]
    assert (read.image_ids.tolist(), read.sizes.tolist()) == ([70, 5], [[20, 30], [40, 25]])
    assert (read.problems, read.has_masks) == ({}, True)
    found = read.objects(0)
    assert (found.boxes.dtype, found.labels.dtype) == (np.float32, np.int64)
    assert found.boxes.tolist() == [[1, 1, 9, 7], [10, 4, 20, 8]]  # the crowd is kept apart
    assert found.labels.tolist() == [0, 1]
    assert read.objects(1).boxes.tolist() == [[2, 3, 12, 23]]
    assert read.num_objects().tolist() == [2, 1]


def test_masks_are_those_of_pycocotools():
    data = coco()
    read = CocoAnnotations(copy.deepcopy(data))
    drawn = read.masks(0, read.objects(0).rows)
    assert (drawn.dtype, drawn.shape) == (np.bool_, (2, 20, 30))
    parts = coco_mask.frPyObjects(data["annotations"][1]["segmentation"], 20, 30)
    assert np.array_equal(drawn[0], decode(coco_mask.merge(parts)).astype(bool))
    assert drawn[1].sum() == 40
    assert drawn[1, 4:8, 10:20].all()
    assert read.masks(0, np.empty(0, np.int64)).shape == (0, 20, 30)


def test_ground_truth_for_scoring_is_what_the_file_says():
    data = coco()
    truth = CocoAnnotations(copy.deepcopy(data)).to_coco()
    assert truth["images"] == data["images"]
    assert {entry["id"]: entry["name"] for entry in truth["categories"]} == {9: "house", 44: "tree"}
    by_id = {entry["id"]: entry for entry in truth["annotations"]}
    for entry in data["annotations"]:
        found = by_id[entry["id"]]
        for key in ("image_id", "category_id", "bbox", "area", "iscrowd"):
            assert found[key] == entry[key]
    assert by_id[12]["segmentation"] == data["annotations"][1]["segmentation"]
    assert decode(by_id[14]["segmentation"]).sum() == 40
    alone = CocoAnnotations(coco(), masks=False).to_coco([1])
    assert [entry["id"] for entry in alone["images"]] == [5]
    assert [entry["id"] for entry in alone["annotations"]] == [11]
    assert "segmentation" not in alone["annotations"][0]


def test_objects_without_masks():
    data = coco()
    data["annotations"][1]["segmentation"] = []
    read = CocoAnnotations(data)
    assert read.problems == {"no_mask": 1}
    assert (len(read.objects(0).rows), len(read.objects(0, with_masks=True).rows)) == (2, 1)
    assert read.num_objects(with_masks=True).tolist() == [1, 1]
    empty = read.to_coco()["annotations"][0]["segmentation"]
    assert decode(empty).sum() == 0
    boxes_only = coco(annotations=[annotation(1, 5, 9, [1, 1, 2, 2], [])])
    read = CocoAnnotations(boxes_only)
    assert (read.has_masks, read.problems) == (False, {})


def test_an_annotation_id_of_zero_is_numbered_anew():
    data = with_annotation(id=0)
    assert sorted(entry["id"] for entry in CocoAnnotations(data).to_coco()["annotations"]) == [1, 12, 14, 15]


def test_boxes_are_clipped_or_dropped_and_counted():
    boxes = [[-4, 2, 10, 30], [5, 5, 0, 4], [30, 3, 4, 4], [-9, 0, 9, 9], [1, 1, 29.004, 3]]
    data = coco(annotations=[annotation(at + 1, 70, 9, box) for at, box in enumerate(boxes)])
    read = CocoAnnotations(data)
    assert read.problems == {"zero_area": 1, "outside": 2, "clipped": 1}
    assert read.objects(0).boxes.tolist() == [[0, 2, 6, 20], [1, 1, 30, 4]]
    assert [entry["bbox"] for entry in read.to_coco()["annotations"]] == [boxes[0], boxes[4]]  # as they stand


def test_one_class_and_images_without_objects():
    read = CocoAnnotations(coco(annotations=[], categories=[{"id": 3, "name": "cell"}]))
    assert (read.class_names, len(read), read.has_masks) == (["cell"], 2, False)
    found = read.objects(1)
    assert (found.boxes.shape, len(found.labels)) == ((0, 4), 0)
    assert read.to_coco()["annotations"] == []


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no_images": (coco(images=[], annotations=[]), "no images in the list"),
    "no_classes": (coco(categories=[], annotations=[]), "no categories: there is nothing to learn"),
    "bad_category": (
        coco(categories=[{"id": "one", "name": "x"}, *coco()["categories"]]),
        r"categories without.* \(1\): #1",
    ),
    "duplicate_category_id": (
        coco(categories=[*coco()["categories"], {"id": 9, "name": "x"}]),
        r"occur twice \(1\): 9",
    ),
    "duplicate_category_name": (
        coco(categories=[*coco()["categories"], {"id": 1, "name": "tree"}]),
        r"name \(1\): tree",
    ),
    "duplicate_image_id": (coco(images=[*coco()["images"], coco()["images"][0]]), r"occur twice \(1\): 70"),
    "missing_image": (
        coco(annotations=[annotation(at, 900 + at, 9, [1, 1, 2, 2]) for at in range(7)]),
        r"annotations for images that the file does not list \(7\): 900, 901, 902, 903, 904, \.\.\.",
    ),
    "missing_category": (with_annotation(category_id=8), r"annotations of categories .* \(1\): 8"),
    "mostly_faulty": (
        coco(annotations=[annotation(1, 5, 9, [1, 1, 2, 2]), {"id": 4, "category_id": 9}, "text"]),
        "2 of 3 annotations without whole numbers as image_id and category_id: is this another format",
    ),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_faults_are_one_line_with_a_hint(kind, tmp_path):
    data, message = BAD[kind]
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=message) as error:
        CocoAnnotations.read(file)
    assert str(file) in error.value.message
    assert "\n" not in error.value.message
    assert "pvtctl data check" in error.value.hint
    assert error.value.exit_code == ExitCode.USAGE
    assert next(problem.kind for problem in scan_coco(data, masks=True).problems if problem.severity == "error") == kind


LOSES: dict[str, dict[str, Any]] = {
    "bad_annotation": {"image_id": None},
    "bad_box": {"bbox": [1, float("nan"), 3, 4], "segmentation": None},
    "bad_crowd": {"iscrowd": "maybe"},
    "reversed_box": {"bbox": [9, 9, -5, 3]},
    "zero_area": {"bbox": [9, 9, 5, 0]},
    "outside": {"bbox": [30, 3, 4, 4]},
}
"""Faults that cost the one object that has them."""


@pytest.mark.parametrize("kind", list(LOSES))
def test_one_bad_object_is_dropped_and_counted(kind):
    read = CocoAnnotations(with_annotation(**LOSES[kind]))
    assert read.problems == {kind: 1}
    assert read.num_objects().tolist() == [1, 1]
    assert [entry["id"] for entry in read.to_coco()["annotations"]] == [13, 14, 11]
    [caution] = read.cautions
    assert caution.endswith(" (1); dropped")
    [problem] = scan_coco(with_annotation(**LOSES[kind]), masks=True).problems
    assert (problem.severity, problem.message) == ("warning", f"{caution}: 12")


@pytest.mark.parametrize(
    "box", [None, [1, 2, 3], [1, 2, 3, "four"], [1, 2, None, 4], "1 2 3 4", [1, 2, True, 4], [1, 2, 10**400, 4], {}]
)
def test_a_box_that_is_no_numbers_follows_from_the_mask(box):
    read = CocoAnnotations(with_annotation(bbox=box))
    assert read.problems == {"box_from_mask": 1}
    assert read.objects(0).boxes[0].tolist() == [1, 1, 15, 7]  # around both polygons
    read = CocoAnnotations(with_annotation(bbox=box, segmentation={"size": [20, 30], "counts": [43, 5, 15, 5, 532]}))
    assert read.objects(0).boxes[0].tolist() == [2, 3, 4, 8]
    for none in (None, [], {"size": [20, 30], "counts": [600]}, [[1, 1, 2, 2]], "text"):
        assert CocoAnnotations(with_annotation(bbox=box, segmentation=none)).problems["bad_box"] == 1


MENDED: dict[str, dict[str, Any]] = {
    "text_numbers": {"bbox": ["1", 1, "8.0", 6], "image_id": "70", "category_id": "9", "iscrowd": "0", "area": "7.25"},
    "whole_floats": {"image_id": 70.0, "category_id": 9.0, "id": 12.0, "iscrowd": 0.0},
    "bad_area": {"area": -1},
    "no_id": {"id": None},
    "duplicate_annotation_id": {"id": 13},
}


@pytest.mark.parametrize("kind", list(MENDED))
def test_what_is_clear_is_mended_and_counted(kind):
    read, sound = CocoAnnotations(with_annotation(**MENDED[kind])), CocoAnnotations(coco())
    assert read.problems == {kind: 1}
    assert bool(read.cautions) == (kind != "whole_floats")
    assert read.num_objects().tolist() == [2, 1]
    found, expected = (each.to_coco()["annotations"] for each in (read, sound))
    assert sorted(entry["id"] for entry in found) in ([11, 12, 13, 14], [11, 13, 14, 15])
    for one, other in zip(found, expected, strict=True):
        assert (one["bbox"], one["image_id"], one["category_id"]) == (
            other["bbox"],
            other["image_id"],
            other["category_id"],
        )


@pytest.mark.parametrize("area", [-1, float("nan"), float("inf"), "large", []])
def test_a_bad_area_is_that_of_the_mask_or_of_the_box(area):
    def area_of(data: dict[str, Any], **options: Any) -> float:
        return {entry["id"]: entry["area"] for entry in CocoAnnotations(data, **options).to_coco()["annotations"]}[12]

    expected = coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(coco()["annotations"][1]["segmentation"], 20, 30)))
    assert area_of(with_annotation(area=area)) == expected
    assert area_of(with_annotation(area=area), masks=False) == expected  # scores do not depend on who reads masks
    assert area_of(with_annotation(area=area, segmentation=[])) == 48


@pytest.mark.parametrize("box", [[1, 1, 1e300, 1e300], [-1e308, 1, 1.7e308, 5], [1, 1, 1e308, 1e308]])
def test_a_box_as_large_as_numbers_go_warns_nobody(box):
    read = CocoAnnotations(with_annotation(bbox=box, area=None, segmentation=None))
    assert read.num_objects().tolist() == [2, 1]
    assert {entry["id"]: entry for entry in read.to_coco()["annotations"]}[12]["area"] > 1e200


def test_areas_of_zero():
    data = coco()
    for entry in data["annotations"]:
        entry["area"] = 0
    read = CocoAnnotations(data)
    assert read.problems == {"area_zero": 4}
    assert min(entry["area"] for entry in read.to_coco()["annotations"]) > 10
    one = CocoAnnotations(with_annotation(area=0))
    assert (one.problems, one.to_coco()["annotations"][0]["area"]) == ({}, 0)  # a single one is as the file says


@pytest.mark.parametrize(
    ("flag", "is_crowd"), [(0, 0), (1, 1), (True, 1), (False, 0), (None, 0), ("0", 0), ("1", 1), (1.0, 1)]
)
def test_crowd_flags(flag, is_crowd):
    read = CocoAnnotations(with_annotation(iscrowd=flag))
    assert {entry["id"]: entry["iscrowd"] for entry in read.to_coco()["annotations"]}[12] == is_crowd
    assert ("text_numbers" in read.problems) == isinstance(flag, str)


@pytest.mark.parametrize("flag", [2, -1, "", "yes", [0], {}, 0.5, float("nan")])
def test_flags_that_say_nothing(flag):
    assert CocoAnnotations(with_annotation(iscrowd=flag)).problems == {"bad_crowd": 1}


def test_crowds_that_are_objects():
    data = coco()
    for entry in data["annotations"]:
        entry["iscrowd"] = 1
    read = CocoAnnotations(data)
    assert (read.problems, read.num_objects().sum()) == ({"all_crowd": 4}, 0)
    assert "data.detection.crowds=objects" in read.cautions[0]
    read = CocoAnnotations(data, crowds_are_objects=True)
    assert (read.problems, read.num_objects().tolist()) == ({}, [3, 1])


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([SQUARE, [1, 2, 3, 4, 5]], "bad_polygon"),
        ([[1, 2, 3, float("inf"), 5, 6]], "bad_polygon"),
        ([[1, 2, 3, "4", 5, 6]], "bad_polygon"),
        ([[1, 2, 3, 10**400, 5, 6]], "bad_polygon"),
        ([[1, 2, 3, 1e12, 5, 6]], "bad_polygon"),  # pycocotools would take terabytes
        ([SQUARE, "text"], "bad_polygon"),
        (["text"], "bad_polygon"),
        ([1, 2, 3, 4, 5], "bad_polygon"),
        ([[1, 1, 4, 4]], "short_polygon"),
        ([1, 1, 4, 4], "short_polygon"),
        ("text", "bad_mask"),
        ({"size": [20, 30], "counts": [3, 4]}, "bad_mask"),
        ({"size": [20, 30]}, "bad_mask"),
        ({"size": 20, "counts": [600]}, "bad_mask"),
        ({"size": [20, 30], "counts": [700, -100]}, "bad_mask"),
        ({"size": [20, 30], "counts": ""}, "bad_mask"),
        ({"size": [20, 30], "counts": "015"}, "bad_mask"),  # ends too early: pycocotools would read beyond its memory
        ({"size": [20, 30], "counts": "ÿé"}, "bad_mask"),
        ({"size": [20, 30], "counts": "\x01"}, "bad_mask"),
        ({"size": [30, 20], "counts": [600]}, "mask_size"),
    ],
)
def test_masks_that_cannot_be_drawn_leave_the_box(segmentation, kind):
    data = with_annotation(segmentation=segmentation)
    read = CocoAnnotations(data)
    assert read.problems == {kind: 1, "no_mask": 1}
    assert (read.num_objects().tolist(), read.num_objects(with_masks=True).tolist()) == ([2, 1], [1, 1])
    assert read.masks(0, read.objects(0).rows)[0].sum() == 0
    assert CocoAnnotations(data, masks=False).problems == {}  # nobody looks at masks


def test_polygons_that_are_clear():
    read = CocoAnnotations(with_annotation(segmentation=SQUARE))
    assert read.problems == {"flat_polygon": 1}
    assert read.to_coco()["annotations"][0]["segmentation"] == [SQUARE]
    read = CocoAnnotations(with_annotation(segmentation=[[1, 1], SQUARE, [2, 2, 3, 3], []]))
    assert read.problems == {"short_polygon": 1}
    assert read.to_coco()["annotations"][0]["segmentation"] == [SQUARE]


def test_all_faults_are_listed_at_once():
    data = with_annotation(bbox=[1, 1, -1, 1])
    data["annotations"] += [annotation(20, 1, 9, [1, 1, 1, 1]), annotation(21, 5, 8, [1, 1, 0, 1])]
    found = scan_coco(data, masks=True).problems
    assert [(problem.kind, problem.severity) for problem in found] == [
        ("missing_image", "error"),
        ("missing_category", "error"),
        ("reversed_box", "warning"),
    ]
    with pytest.raises(UsageError, match="and 1 more kinds of fault"):
        CocoAnnotations(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"file_name": "a\0b"},
        {"file_name": "\ud800"},
        {"file_name": 3},
        {"width": 10**9},
        {"height": 0},
        {"width": None},
    ],
)
def test_an_image_that_cannot_be_is_dropped_with_its_objects(changes):
    data = coco()
    data["images"][1] |= changes
    read = CocoAnnotations(data)
    assert read.problems == {"bad_image": 1}
    assert (list(read.file_names), read.num_objects().tolist()) == (["a.png"], [2])
    data["images"][0] |= changes
    with pytest.raises(UsageError, match="2 of 2 images without a whole number as id, a file_name"):
        CocoAnnotations(data)


def test_sizes_of_images():
    data = coco()
    data["images"][0] |= {"id": 70.0, "height": 20.0, "width": "30"}
    del data["images"][1]["height"]
    read = CocoAnnotations(data, size_of={"b.png": (40, 25)}.get)
    assert read.problems == {"text_numbers": 1, "size_from_file": 1, "whole_floats": 1}
    assert read.sizes.tolist() == [[20, 30], [40, 25]]
    assert read.num_objects().tolist() == [2, 1]


def test_categories_of_other_tools():
    data = coco(categories=[{"id": "44", "name": "tree"}, {"id": 9.0, "name": 7}])
    assert CocoAnnotations(data).class_names == ["7", "tree"]


def test_run_lengths_of_any_mask_are_accepted():
    random = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 1.0):
        masks = np.asfortranarray((random.random((37, 411, 4)) < share).astype(np.uint8))
        rles = coco_mask.encode(masks)
        entries = [
            annotation(at + 1, 1, 9, [0, 0, 5, 5], {"size": [37, 411], "counts": rle["counts"].decode()})
            for at, rle in enumerate(rles)
        ]
        image = {"id": 1, "file_name": "a", "height": 37, "width": 411}
        read = CocoAnnotations(coco(images=[image], annotations=entries))
        assert np.array_equal(read.masks(0, np.arange(4)), masks.transpose(2, 0, 1).astype(bool))


def test_files_that_are_not_coco(tmp_path):
    file = tmp_path / "annotations.json"
    text = json.dumps(coco())
    file.write_text(text[:300])
    with pytest.raises(UsageError, match=r"annotations.json is not JSON: .* at line 1, column \d+") as error:
        load_coco(file)
    assert "cut short" in error.value.hint
    file.write_text("")
    with pytest.raises(UsageError, match="is not JSON"):
        load_coco(file)
    file.write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_coco(file)
    file.write_text(f'{{"images": [{"9" * 5000}]}}')
    with pytest.raises(UsageError, match=r"is damaged \(Exceeds the limit"):
        load_coco(file)
    file.write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is nested too deep"):
        load_coco(file)
    file.write_text('{"images": [], "info": {}}')
    with pytest.raises(UsageError, match="no list annotations and no list categories"):
        load_coco(file)
    file.write_text("[1, 2]")
    with pytest.raises(UsageError, match="not a COCO instances file"):
        load_coco(file)
    with pytest.raises(UsageError, match="no annotation file"):
        load_coco(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="is a folder, not a file"):
        load_coco(tmp_path)


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("val2017", "instances_val2017.json"),
        ("images/val", "instances_val.json"),
        ("val", "instances_val.json"),
    ],
)
def test_layouts(tmp_path, folder, file):
    with pytest.raises(UsageError, match=r"no data folder .*absent"):
        find_coco(tmp_path / "absent", "val")
    with pytest.raises(UsageError, match=r"looked for .*instances_val2017.json and .*instances_val.json") as error:
        find_coco(tmp_path, "val")
    assert "FOLDER/annotations/" in error.value.hint
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / file).write_text("{}")
    with pytest.raises(UsageError, match="no image folder: looked for"):
        find_coco(tmp_path, "val")
    assert find_coco(tmp_path, "val", need_images=False)[1] == tmp_path / "annotations" / file
    (tmp_path / folder).mkdir(parents=True)
    assert find_coco(tmp_path, "val") == (tmp_path / folder, tmp_path / "annotations" / file)


def test_a_pair_of_folder_and_file(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text("{}")
    assert find_coco(None, "train", images=tmp_path, annotations=file) == (tmp_path, file)
    assert find_coco(None, "train", annotations=file, need_images=False)[1] == file
    for pair, message in (
        ({"images": tmp_path}, "not their annotations"),
        ({"annotations": file}, "not their images"),
        ({"images": tmp_path / "no", "annotations": file}, "no image folder"),
        ({"images": tmp_path, "annotations": tmp_path / "no"}, "no annotation file"),
    ):
        with pytest.raises(UsageError, match=message):
            find_coco(None, "train", **pair)


@pytest.mark.parametrize(
    ("name", "objects", "crowds", "masks"),
    [("coco_tiny/annotations/instances_train2017", 699, 6, True), ("bccd/annotations/instances_val", 1137, 0, False)],
)
def test_real_sets(shared: Path, name, objects, crowds, masks):
    file = shared / "data" / f"{name}.json"
    data = json.loads(file.read_text())
    read = CocoAnnotations.read(file)
    assert (read.problems, read.has_masks) == ({}, masks)
    assert read.num_objects().sum() == objects
    truth = {entry["id"]: entry for entry in read.to_coco()["annotations"]}
    assert sum(entry["iscrowd"] for entry in truth.values()) == crowds
    for entry in data["annotations"]:
        found = truth[entry["id"]]
        assert all(found[key] == entry[key] for key in ("bbox", "area", "image_id", "category_id", "iscrowd"))
        if isinstance(entry["segmentation"], list) and entry["segmentation"]:
            assert found["segmentation"] == entry["segmentation"]
