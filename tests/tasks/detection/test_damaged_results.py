"""Damaged results files: every one is refused in one line or scored, in bounded time, before pycocotools sees a mask."""

from __future__ import annotations

import json
import os
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pvtctl.errors import UsageError
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.report import DetectionReport
from pvtctl.tasks.detection.scoring.results import read_results, score_results
from pvtctl.tasks.detection.scoring.scores import BACKENDS
from pvtctl.tasks.detection.segments import MAX_OUTLINE, damaged_counts, decode_rle, pack_masks

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=60)
SIZE = (40, 60)
FUZZED = int(os.environ.get("PVTCTL_FUZZ", "150"))
"""Mutations tried; more by the environment."""


def drawn(seed: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).random(SIZE) < 0.3
    return {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()}


def truth_of(count: int = 3) -> dict[str, Any]:
    images = [{"id": at, "height": SIZE[0], "width": SIZE[1], "file_name": f"{at}.jpg"} for at in range(count)]
    objects = [
        {"id": at + 1, "image_id": at, "category_id": 1, "bbox": [1, 1, 30, 30], "area": 400, "segmentation": drawn(at)}
        for at in range(count)
    ]
    return {"images": images, "categories": [{"id": 1, "name": "cell"}], "annotations": objects}


def detections(count: int = 3, **changed: Any) -> list[dict[str, Any]]:
    rows = [{"image_id": at, "category_id": 1, "bbox": [1, 1, 30, 30], "score": 0.5} for at in range(count)]
    return [{**row, "segmentation": drawn(at), **changed} for at, row in enumerate(rows)]


def encoded(counts: bytes, height: int, width: int) -> bool:
    """Whether compressed counts cover the image, by the decoder of the annotations."""
    try:
        decode_rle({"size": [height, width], "counts": counts})
    except ValueError:
        return False
    return True


@EXAMPLES
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32)), min_size=1, max_size=8))
def test_many_masks_are_checked_as_each_is_decoded(cases: list[tuple[int, int, int]]) -> None:
    counts, sizes = [], []
    for height, width, seed in cases:
        rng = random.Random(seed)
        pixels = np.random.default_rng(seed).random((height, width)) < rng.random()
        coded = bytearray(coco_mask.encode(np.asfortranarray(pixels, np.uint8))["counts"])
        for _ in range(rng.choice([0, 0, 1, 2])):
            coded[rng.randrange(len(coded))] = rng.choice([rng.randrange(256), rng.randrange(44, 116)])
        counts.append(bytes(coded[: rng.choice([len(coded), rng.randrange(len(coded) + 1)])]))
        sizes.append((height, width))
    damaged, _ = damaged_counts(counts, np.asarray([height * width for height, width in sizes]))
    assert damaged.tolist() == [not encoded(coded, *size) for coded, size in zip(counts, sizes, strict=True)]


@EXAMPLES
@given(st.lists(st.sampled_from([0, 0, 1, 2, 7]), min_size=1, max_size=12).filter(any))
def test_runs_of_nothing_are_joined(runs: list[int]) -> None:
    """pycocotools ends its comparison of two masks where both have such a run."""
    height, width = 1, sum(runs)
    drawn_runs = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    for mask in (runs, coco_mask.frPyObjects({"size": [1, width], "counts": runs}, 1, width)["counts"].decode()):
        [packed], faults = pack_masks([{"size": [1, width], "counts": mask}], [(height, width)])
        assert not faults
        np.testing.assert_array_equal(decode_rle({"size": [1, width], "counts": packed}), drawn_runs)
        assert not damaged_counts([packed], np.asarray([width]))[1].any()


HUGE = [[0, 0, 1e9, 0, 1e9, 1e9]]
LONG = [[0, 0, *([9e5, 0, 0, 9e5] * 20)]]
BAD_MASKS: dict[str, Any] = {
    "runs of a smaller image": {"size": list(SIZE), "counts": [5, 5]},
    "negative": {"size": list(SIZE), "counts": [-5, 2405]},
    "too long": {"size": list(SIZE), "counts": [2400, 1]},
    "no runs": {"size": list(SIZE), "counts": []},
    "broken off": {"size": list(SIZE), "counts": "o"},
    "no digits": {"size": list(SIZE), "counts": "é~"},
    "fractions": {"size": list(SIZE), "counts": [0.5, 2399.5]},
    "no counts": {"size": list(SIZE)},
    "far away": HUGE,
    "as far as numbers go": [[0, 0, 1e308, 0, 1e308, 1e308]],
    "a long way": LONG,
    "not a number": [[0, 0, float("nan"), 0, 9, 9]],
    "infinite": [[0, 0, float("inf"), 0, 9, 9]],
    "an odd number": [[0, 0, 1, 0, 9, 9, 3]],
    "words": [["a", "b", "c", "d", "e", "f"]],
    "400 digits": [[10**400, 0, 1, 0, 9, 9]],
    "text": "mask",
    "a number": 7,
}


@pytest.mark.parametrize("name", BAD_MASKS)
@pytest.mark.parametrize("alike", [True, False])
def test_a_damaged_mask_is_refused(tmp_path: Path, name: str, alike: bool) -> None:
    rows = detections()
    rows[1 if alike else 0]["segmentation"] = BAD_MASKS[name]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows, indent=None if alike else 2))
    with pytest.raises(UsageError, match=f"the mask of entry {int(alike)} of .* is not a run-length encoding"):
        read_results(path, truth_of(), [1])
    truth = truth_of()
    truth["annotations"][2]["segmentation"] = BAD_MASKS[name]
    path.write_text(json.dumps(detections()))
    for backend in BACKENDS:  # the truth of a Python caller passes no reader of files
        with pytest.raises(UsageError, match="the mask of annotation 3 is damaged"):
            score_results(["cell"], [1], truth, path, backend=backend).compute()


def test_the_usual_layout_is_checked_too(tmp_path: Path) -> None:
    rows = detections()
    rows[2]["segmentation"] = {"size": list(SIZE), "counts": rows[2]["segmentation"]["counts"][:-1]}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UsageError, match="the mask of entry 2 of "):
        read_results(path, truth_of(), [1])
    assert MAX_OUTLINE > 4 * 1e6  # a square around the largest coordinates


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": 1e999, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
        '[{"image_id": 1' + "0" * 30 + ', "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, ' + "9" * 400 + '], "score": 0.5}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": ' + "9" * 5000 + "}]",
        '[{"image_id": 1, "category_id": 1, "bbox": "1234", "score": 0.5}]',
        '[{"image_id": 1, "category_id": 1, "bbox": {"a": 1}, "score": 0.5}]',
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": [0.5]}]',
        '[{"image_id": 1, "category_id": 1, "bbox": ' + "[" * 100_000 + "]" * 100_000 + ', "score": 1}]',
        "[" * 100_000 + "]" * 100_000,
        "[" * 100_000,
    ],
    ids=range(10),
)
def test_what_a_parser_chokes_on_is_told_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"r\.json") as caught:
        read_results(path, truth_of(), [1])
    assert len(caught.value.message) < 300 + len(str(path))


def mutated(rng: random.Random) -> bytes:
    """A results file with one to three faults: other bytes, values of another kind, other counts, a torn end."""
    rows = detections(4, **({} if rng.random() < 0.7 else {"segmentation": [[1, 1, 30, 1, 30, 30]]}))
    odd = [
        None,
        True,
        -1,
        0,
        1e308,
        1e999,
        -1e999,
        float("nan"),
        10**25,
        "",
        "x" * 50,
        [],
        {},
        [[]],
        [1],
        {"size": [1]},
    ]
    for _ in range(rng.randrange(3)):
        row = rng.choice(rows)
        key = rng.choice(list(row))
        inner = row[key]
        if rng.random() < 0.5 and isinstance(inner, dict | list) and inner:
            inner[rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))] = rng.choice(odd)
        else:
            row[key] = rng.choice(odd)
    data = bytearray(json.dumps(rows, separators=rng.choice([(",", ":"), (", ", ": ")])).encode())
    for _ in range(rng.choice([0, 1, 1, 3])):
        data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), *b'0159-.eE,[]{}"'])
    return bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])


def read_all(folder: Path, seeds: range) -> None:
    truth, path = truth_of(4), folder / "r.json"
    for seed in seeds:
        path.write_bytes(mutated(random.Random(seed)))
        message, numbers = str(path), dict[str, float]()
        try:
            numbers = score_results(["cell"], [1], truth, path).compute()
        except UsageError as error:
            message = error.message
        assert str(path) in message, (seed, message)
        assert "\n" not in message, seed
        assert all(not value > 1 for name, value in numbers.items() if "_a" in name), seed


def test_mutated_files_are_refused_or_scored(tmp_path: Path) -> None:
    """In a child, as C code that reads past its memory or never ends would take the tests with it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + 20 + FUZZED / 20),) * 2)
            read_all(tmp_path, range(FUZZED))
            code = 0
        except BaseException as error:  # a fork must not go on with pytest
            (tmp_path / "fault").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    fault = tmp_path / "fault"
    assert status == 0, fault.read_text() if fault.is_file() else f"ended by signal {status & 127}"


def dense(count: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    boxes = [[20.0 * (at % 20), 20.0 * (at // 20), 15.0, 15.0] for at in range(count)]
    rows = [{"image_id": 1, "category_id": at % classes, "bbox": box} for at, box in enumerate(boxes)]
    truth = {
        "images": [{"id": 1, "height": 1000, "width": 1000, "file_name": "a.jpg"}],
        "categories": [{"id": at, "name": str(at)} for at in range(classes)],
        "annotations": [{**row, "id": at + 1, "area": 225.0} for at, row in enumerate(rows)],
    }
    return truth, [{**row, "score": 1 - at / 1000} for at, row in enumerate(rows)]


def notes_of(metric: DetectionMetric) -> str:
    report = DetectionReport.__new__(DetectionReport)
    report.metric = metric
    return " ".join(report.notes())


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_limit_is_said_and_can_be_raised(tmp_path: Path, backend: str) -> None:
    truth, found = dense(150, 1)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))

    def scored(limit: int | None) -> DetectionMetric:
        return score_results(["0"], [0], truth, path, backend=backend, max_detections=limit)

    cocos = scored(None)
    assert 0.65 < cocos.compute()["box_ap"] < 0.68
    assert cocos.crowding() == {
        "max_detections": 100,
        "is_cocos": True,
        "images_with_more_objects": 1,
        "most_objects": 150,
    }
    assert "1 image has more than 100 objects of one class (up to 150)" in notes_of(cocos)
    higher = scored(200)
    assert higher.compute()["box_ap"] == pytest.approx(1)
    assert higher.compute()["box_ar_200"] == pytest.approx(1)
    assert "box_ar_100" not in higher.compute()
    assert "not COCO's numbers" in notes_of(higher)
    assert "more than" not in notes_of(higher)
    lower = scored(50)
    assert 0.3 < lower.compute()["box_ap"] < 0.35
    assert len(lower.found) == 50
    assert not lower.crowding()["is_cocos"]


def test_coco_counts_by_class_and_detectors_by_image(tmp_path: Path) -> None:
    truth, found = dense(150, 3)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))
    names, ids = ["0", "1", "2"], [0, 1, 2]
    by_class = score_results(names, ids, truth, path)
    assert by_class.compute()["box_ap"] == pytest.approx(1)
    assert "more than" not in notes_of(by_class)
    of_a_model = DetectionMetric(names, ids, truth, masks=False)
    assert "1 image has more than 100 objects (up to 150)" in notes_of(of_a_model)
    assert score_results(names, ids, truth, path, max_detections=100).compute()["box_ap"] < 0.7


def test_boxes_that_look_like_corners_are_said(tmp_path: Path) -> None:
    truth, found = dense(90, 1)
    for row in found:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x + 600, y + 600, x + 600 + width, y + 600 + height]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))
    assert "look like x1 y1 x2 y2" in notes_of(score_results(["0"], [0], truth, path))
