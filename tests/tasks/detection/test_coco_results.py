"""Results files: read as Python reads them, fast where they look as usual, and refused in one line where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.scoring.fast_json import read_table
from pvtctl.tasks.detection.scoring.results import read_results

TRUTH: dict[str, Any] = {
    "images": [{"id": at, "height": 40, "width": 60, "file_name": f"{at}.jpg"} for at in (5, 9, 300)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
    "annotations": [],
}
IDS = [3, 1]


def entries(count: int = 200, *, masks: bool = False) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for at in range(count):
        row: dict[str, Any] = {"image_id": (5, 9, 300)[at % 3], "category_id": (1, 3)[at % 2]}
        row["bbox"] = [*rng.uniform(-1, 30, 2).tolist(), *rng.uniform(0, 30, 2).astype(np.float32).tolist()]
        row["score"] = float(rng.random() * 10.0 ** -rng.integers(0, 9))
        if masks:
            mask = rle.encode(np.asfortranarray(rng.random((40, 60)) < 0.3, np.uint8))
            row["segmentation"] = {"size": [40, 60], "counts": mask["counts"].decode()}
        rows.append(row)
    rows[1]["bbox"][0] = 3  # whole numbers beside others, an exponent, a minus
    rows[2]["bbox"] = [-0.0, 1e-05, 2.5e1, 7]
    return rows


LAYOUTS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"sort_keys": True}]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masks", [False, True])
def test_the_usual_layout_is_read_fast_and_to_the_bit(tmp_path: Path, layout: dict[str, Any], masks: bool) -> None:
    rows = entries(masks=masks)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows, **layout) + "\n")
    assert read_table(path.read_bytes()) is not None
    found = read_results(path, TRUTH, IDS)
    assert found.image_ids.tolist() == [row["image_id"] for row in rows]
    assert [IDS[label] for label in found.labels.tolist()] == [row["category_id"] for row in rows]
    assert found.scores.tolist() == [row["score"] for row in rows]
    assert found.boxes.tolist() == [row["bbox"] for row in rows]
    if masks:
        assert found.masks == [row["segmentation"]["counts"].encode() for row in rows]


def test_blocks_are_cut_between_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pvtctl.tasks.detection.scoring import fast_json as coco_fast_json

    monkeypatch.setattr(coco_fast_json, "_BLOCK", 9000)
    rows = entries(masks=True)
    (tmp_path / "r.json").write_text(json.dumps(rows))
    assert read_table((tmp_path / "r.json").read_bytes()) is not None
    assert read_results(tmp_path / "r.json", TRUTH, IDS).scores.tolist() == [row["score"] for row in rows]


def test_exponents_in_every_entry_are_no_digits(tmp_path: Path) -> None:
    text = ",".join('{"image_id":5,"category_id":1,"bbox":[1,2,3,4e1],"score":1e-7}' for _ in range(5))
    (tmp_path / "r.json").write_text(f"[{text}]")
    assert read_table((tmp_path / "r.json").read_bytes()) is not None
    found = read_results(tmp_path / "r.json", TRUTH, IDS)
    assert found.boxes[:, 3].tolist() == [40.0] * 5
    assert found.scores.tolist() == [1e-7] * 5


@pytest.mark.parametrize("key", ["score1", "1score", "sc0ore", "sc.ore", "scor~e"])
def test_a_digit_within_a_word_is_no_part_of_a_number(tmp_path: Path, key: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(entries(6)).replace("score", key, 4).replace(key, "score", 3))
    with pytest.raises(UsageError, match=r"entry 3 of .* has no 'score'"):
        read_results(tmp_path / "r.json", TRUTH, IDS)


def test_other_layouts_are_read_in_the_ordinary_way(tmp_path: Path) -> None:
    rows = entries(6)
    rows[3] = dict(reversed(rows[3].items()))
    rows[4]["note"] = "7, 8"
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    assert read_table(path.read_bytes()) is None
    assert read_results(path, TRUTH, IDS).boxes.tolist() == [row["bbox"] for row in rows]


@pytest.mark.parametrize("text", ["[]", " [ ] "])
def test_no_detections(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert len(read_results(tmp_path / "r.json", TRUTH, IDS)) == 0


def test_masks_alone_in_any_coding(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[10:20, 5:25] = 1
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
    uncompressed = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()
    codings = [
        {"size": [40, 60], "counts": rle.encode(mask)["counts"].decode()},
        {"size": [40, 60], "counts": uncompressed},
        [[5.0, 10.0, 25.0, 10.0, 25.0, 20.0, 5.0, 20.0]],
    ]
    rows = [{"image_id": 9, "category_id": 1, "segmentation": coding, "score": 0.5} for coding in codings]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    found = read_results(tmp_path / "r.json", TRUTH, IDS)
    assert found.masks is not None
    assert len(set(found.masks)) == 1
    assert found.boxes.tolist() == [[5, 10, 20, 10]] * 3


def entry(**changed: Any) -> dict[str, Any]:
    row = {"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, **changed}
    return {key: value for key, value in row.items() if value != "absent"}


BAD = {
    "truncated": (json.dumps(entries(3))[:-40], "ends in the middle"),
    "no JSON": ("image,score\n1,2\n", "is not JSON"),
    "nothing": ("", "is not JSON"),
    "binary": ("\x00\x01", "is not JSON"),
    "annotations": (json.dumps(TRUTH), "is an annotation file"),
    "no list": ('{"a": 1}', "is not a list"),
    "no score": (json.dumps([entry(), entry(score="absent")]), "entry 1 of .* has no 'score'"),
    "no score in the first": (json.dumps([entry(score="absent")]), "entry 0 of .* has no 'score'"),
    "no box": (json.dumps([entry(bbox="absent")]), "has no 'bbox'"),
    "short box": (json.dumps([entry(bbox=[1, 2, 3])]), "entry 0 of .* is not a detection"),
    "words": (json.dumps([entry(score="high")]), "entry 0 of .* is not a detection"),
    "no entries": ("[1, 2]", "entry 0 of .* is not a detection"),
    "image without end": (
        '[{"image_id": 1e999, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]',
        "is not a detection",
    ),
    "image too large": (json.dumps([entry(image_id=10**30)]), "entry 0 of .* is not a detection"),
    "category too large": (json.dumps([entry(category_id=-(2**63))]), "entry 0 of .* is not a detection"),
    "score of 400 digits": (json.dumps([entry(score=10**400)]), "entry 0 of .* is not a detection"),
    "box of 400 digits": (json.dumps([entry(bbox=[1, 2, 3, 10**400])]), "entry 0 of .* is not a detection"),
    "number of 5,000 digits": ('[{"image_id": ' + "9" * 5000 + "}]", "is damaged"),
    "deep": ("[" * 100_000 + "]" * 100_000, "is nested too deep"),
    "deep entry": ('[{"image_id": 5, "bbox": ' + "[" * 100_000 + "]" * 100_000 + "}]", "is nested too deep"),
    "deep objects": ('[{"image_id": ' * 50_000 + "1" + "}]" * 50_000, "is nested too deep"),
    "escapes": (json.dumps(["\x1b[2J"]), r"entry 0 of .* \\x1b"),
    "long": (json.dumps(["x" * 100_000]), "entry 0 of .* is not a detection"),
    "unknown images": (
        json.dumps([entry(image_id=at) for at in (5, 77, 71, 72, 73, 74, 75, 76)]),
        "images that the annotations do not have: 71, 72, 73, 74, 75 and 2 more",
    ),
    "unknown category": (json.dumps([entry(category_id=2)]), "categories that the annotations do not have: 2"),
    "NaN": (json.dumps([entry(), entry(score=float("nan"))]), "entry 1 of .* score nan"),
    "infinite": (json.dumps([entry(bbox=[1, 2, float("inf"), 4])]), "entry 0 of .* inf"),
    "reversed": (json.dumps([entry(bbox=[9, 9, -3, 4])]), "entry 0 of .* -3"),
    "mask of another size": (
        json.dumps([entry(segmentation={"size": [60, 40], "counts": "0"})]),
        "mask of entry 0 of .* is 60x40 in an image of 40x60",
    ),
    "no mask": (json.dumps([entry(segmentation=[[1, 2]])]), "is not a run-length encoding"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, message = BAD[name]
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_results(path, TRUTH, IDS)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_no_file(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent.json", "cannot be read: No such file"),
        (tmp_path, "is a folder, not a file"),
    ):
        with pytest.raises(UsageError, match=message):
            read_results(path, TRUTH, IDS)
