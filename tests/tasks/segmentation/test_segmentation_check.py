"""The verdict on sets of label maps."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from segmentation_sets import mask_set, stripes, write

from pvtctl.errors import ExitCode, UsageError
from pvtctl.tasks.segmentation.check import check_segmentation_data, label_class_rows
from pvtctl.tasks.segmentation.settings import SegmentationData

GOOD = [0, 1, 2, 3]


def good(tmp_path, **changes):
    """Two training masks and one of validation with sky, road, car and void, in which `changes` replace splits."""
    sets = {"train": [stripes(GOOD), stripes(GOOD[::-1])], "val": [stripes(GOOD)]}
    return mask_set(tmp_path, sets | changes)


def checked(root, name="masks", **segmentation):
    return check_segmentation_data(root, name=name, settings=SegmentationData(**segmentation))


def kinds(verdict) -> dict[str, str]:
    return {problem.kind: problem.severity for problem in verdict.problems if problem.kind != "repeated"}


def test_a_good_set(tmp_path):
    told = []
    root = good(tmp_path)
    verdict = check_segmentation_data(root, name="masks", on_progress=lambda *each: told.append(each))
    assert kinds(verdict) == {}
    assert (verdict.exit_code, verdict.classes, verdict.images) == (ExitCode.DONE, 3, {"train": 2, "val": 1})
    train = verdict.splits["train"]
    assert train.pixels == 2 * 40 * 56
    assert train.unlabelled_share == pytest.approx(0.25)
    assert {name: (row.value, row.images) for name, row in train.classes.items()} == {
        "sky": (0, 2), "road": (1, 2), "car": (2, 2),
    }  # fmt: skip
    assert sum(row.share for row in train.classes.values()) == pytest.approx(1.0)
    assert [row["class"] for row in label_class_rows(verdict)] == ["sky", "road", "car"]
    assert told[-1] == ("val", 1, 1)
    json.dumps(verdict.to_json())


def test_values_outside_of_the_classes(tmp_path):
    root = good(tmp_path, val=[stripes([0, 1, 9])])
    verdict = checked(root)
    assert kinds(verdict)["outside"] == "error"
    assert verdict.exit_code == ExitCode.USAGE
    assert list(verdict.splits["val"].outside) == [9]
    assert label_class_rows(verdict)[-1]["value"] == 9
    assert any("data.segmentation.ignore=[9]" in each for each in verdict.advice)
    assert "outside" not in kinds(checked(root, ignore=(3, 9)))


def test_labels_that_count_from_one(tmp_path):
    root = good(tmp_path)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    verdict = checked(root)
    assert {"outside", "looks_unlabelled"} <= set(kinds(verdict))
    assert any("data.segmentation.labels=shifted" in each for each in verdict.advice)
    assert kinds(checked(root, labels="shifted")) == {}


def test_labels_that_count_from_zero_taken_for_shifted(tmp_path):
    root = good(tmp_path, train=[stripes([0, 1, 2])] * 25, val=[stripes([0, 1, 2])])
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    verdict = checked(root, labels="shifted")
    assert kinds(verdict)["looks_labelled"] == "warning"
    assert verdict.exit_code == ExitCode.FAILED
    assert any("labels=plain" in each for each in verdict.advice)


def test_black_and_white_masks(tmp_path):
    root = good(tmp_path, train=[stripes([0, 255])], val=[stripes([255, 0])])
    (root / "classes.txt").write_text("background\nobject\n")
    verdict = checked(root)
    assert kinds(verdict) == {"looks_binary": "warning", "label_gap": "note"}
    assert any("`255 object`" in each for each in verdict.advice)
    (root / "classes.txt").write_text("0 background\n255 object\n")
    assert kinds(checked(root)) == {}
    assert checked(root).splits["val"].classes["object"].share == pytest.approx(0.5)


def test_colour_coded_masks(tmp_path):
    colours = np.array([[9, 0, 0], [0, 9, 0]], np.uint8)[stripes([0, 1])]
    root = good(tmp_path, train=[colours], val=[colours])
    assert kinds(checked(root))["colours"] == "error"
    (root / "classes.txt").write_text("sky 9 0 0\nroad 0 9 0\n")
    assert set(kinds(checked(root))) <= {"label_gap"}
    colours[3, 3] = (1, 1, 1)
    write(root / "annotations" / "val" / "000.png", colours)
    assert kinds(checked(root))["colours"] == "error"


def test_masks_of_floats(tmp_path):
    root = good(tmp_path)
    Image.fromarray(np.ones((40, 56), np.float32)).save(root / "annotations" / "val" / "000.tif")
    (root / "annotations" / "val" / "000.png").unlink()
    assert kinds(checked(root)) == {"no_labels": "error", "no_labels_at_all": "error", "only_in_train": "note"}


def test_pairs_sizes_and_files(tmp_path):
    maps = [stripes([0, 1, 2], (40 + number, 56)) for number in range(5)]
    root = good(tmp_path, train=maps)
    (root / "annotations" / "train" / "000.png").unlink()
    write(root / "annotations" / "train" / "001.png", stripes([0, 1, 2], (20, 30)))
    (root / "annotations" / "train" / "002.png").write_bytes(b"no image")
    (root / "images" / "train" / "003.jpg").unlink()
    write(root / "annotations" / "train" / "004.png", np.full((44, 56), 255, np.uint8))
    shutil.copy(root / "images" / "train" / "004.jpg", root / "images" / "val" / "000.jpg")
    write(root / "annotations" / "val" / "000.png", stripes([0, 1, 2], (44, 56)))
    verdict = checked(root)
    assert kinds(verdict) == {
        "no_mask": "error",
        "other_size": "warning",
        "bad_mask": "warning",
        "in_train_and_val": "warning",
        "no_image": "note",
        "unlabelled": "note",
    }
    told = {problem.kind: problem.examples[0] for problem in verdict.problems}
    assert told["no_mask"] == "000.jpg"
    assert told["other_size"] == "001.jpg: 56x41, its mask 30x20"
    assert told["no_image"] == "003.png"
    assert verdict.exit_code == ExitCode.USAGE


def test_classes_that_are_never_seen(tmp_path):
    root = good(tmp_path, train=[stripes([0, 1])], val=[stripes([0, 2])])
    (root / "classes.txt").write_text("sky\nroad\ncar\nfence\n")
    assert kinds(checked(root)) == {"only_in_train": "note", "only_in_val": "warning", "label_gap": "note"}


def test_no_mask_can_be_used(tmp_path):
    root = good(tmp_path, val=[stripes(GOOD)])
    write(root / "annotations" / "val" / "000.png", stripes(GOOD, (8, 8)))
    assert kinds(checked(root))["no_labels_at_all"] == "error"


def test_a_split_without_a_class(tmp_path):
    verdict = checked(good(tmp_path, val=[stripes([255])]))
    assert kinds(verdict)["no_class_at_all"] == "error"
    assert verdict.exit_code == 2


def test_without_a_class_list_the_values_are_told(tmp_path):
    root = good(tmp_path)
    (root / "classes.txt").unlink()
    verdict = checked(root)
    assert kinds(verdict) == {"no_classes": "error"}
    assert any("the values 0, 1, 2, 3" in each for each in verdict.advice)
    assert [row["value"] for row in label_class_rows(verdict)] == GOOD
    (root / "classes.txt").write_text("sky\n")
    assert kinds(checked(root)) == {"no_classes": "error"}


def test_16_bits_and_missing_splits(tmp_path):
    root = mask_set(tmp_path, {"train": [stripes([0, 300], dtype=np.uint16)]})
    verdict = checked(root)
    assert kinds(verdict)["missing_split"] == "warning"
    assert list(verdict.splits["train"].outside) == [300]
    (root / "images" / "val").mkdir()
    assert kinds(checked(root))["layout"] == "error"
    with pytest.raises(UsageError):
        checked(tmp_path / "nowhere")


@pytest.mark.slow
def test_real_sets(shared):
    camvid = checked(shared / "data" / "camvid")
    assert (camvid.verdict, camvid.images, camvid.problems) == ("ok", {"train": 120, "val": 40}, [])
    assert camvid.splits["train"].classes["road"].share == pytest.approx(0.31 / (1 - 0.039), abs=0.01)
    ade = checked(shared / "data" / "ade20k_sample", "ade20k")
    assert kinds(ade) == {"missing_split": "warning", "label_gap": "note"}
    as_it_lies = checked(shared / "data" / "ade20k_sample", "ade20k", labels="plain", ignore=())
    assert "wall" in {name for name, row in as_it_lies.splits["val"].classes.items() if row.pixels}
