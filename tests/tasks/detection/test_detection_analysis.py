"""What is wrong with detections is told by its right name, and what it costs is what COCO's evaluation says it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvtctl.cli._console import print_json
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.scoring.analysis import DetectionAnalysis
from pvtctl.tasks.detection.scoring.columns import Columns
from pvtctl.tasks.detection.scoring.matching import average_precision, match, true_objects
from pvtctl.tasks.detection.scoring.results import score_results

TRUE = [  # image, label, x, y, width, height, crowd
    (1, 0, 0, 0, 10, 10, 0),
    (1, 1, 50, 50, 20, 20, 0),
    (2, 0, 0, 0, 10, 10, 0),
    (2, 0, 30, 30, 10, 10, 0),
    (3, 1, 0, 0, 50, 50, 1),
]
FOUND = [  # image, label, score, x, y, width, height, and what it is
    (1, 0, 0.9, 0, 0, 10, 10, "right"),
    (1, 0, 0.8, 0, 0, 10, 9, "duplicate"),
    (1, 0, 0.7, 50, 50, 20, 20, "classification"),
    (1, 1, 0.6, 50, 50, 10, 15, "localisation"),
    (1, 0, 0.5, 50, 50, 10, 10, "both"),
    (1, 1, 0.4, 200, 200, 9, 9, "background"),
    (2, 0, 0.3, 30, 30, 10, 10, "right"),
    (3, 1, 0.2, 5, 5, 10, 10, "on a crowd"),
]


def metric_of(true: list[Any], found: list[Any]) -> DetectionMetric:
    truth = {
        "images": [{"id": at, "height": 300, "width": 300, "file_name": f"{at}.jpg"} for at in (1, 2, 3)],
        "categories": [{"id": 4, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": at, "image_id": i, "category_id": (4, 2)[k], "bbox": [*b], "area": b[2] * b[3], "iscrowd": crowd}
            for at, (i, k, *b, crowd) in enumerate(true, start=1)
        ],
    }
    metric = DetectionMetric(["a", "b"], [4, 2], truth, masks=False)
    columns = [np.asarray([row[at] for row in found]) for at in range(3)]
    boxes = np.asarray([row[3:7] for row in found], np.float64)
    metric.add(Columns(columns[0].astype(np.int64), columns[1].astype(np.int32), columns[2].astype(np.float64), boxes))
    return metric


@pytest.fixture(scope="module")
def analysis() -> DetectionAnalysis:
    return metric_of(TRUE, FOUND).analysis(threshold=0.3)


def test_each_error_has_its_name(analysis: DetectionAnalysis) -> None:
    counts = {error.name: error.count for error in analysis.errors}
    assert counts == {
        **dict.fromkeys(("classification", "localisation", "both", "duplicate", "background"), 1),
        "missed": 1,
    }
    metric = metric_of(TRUE, FOUND)
    kinds = match(metric.found, true_objects(metric.truth, [4, 2])).kind.tolist()
    assert kinds == [0, 4, 1, 2, 3, 5, 0, 6]


def test_gains_are_those_of_mended_detections(analysis: DetectionAnalysis) -> None:
    """Each oracle's AP50, computed anew by COCO's evaluation from detections mended by hand."""
    base = metric_of(TRUE, FOUND).compute()["box_ap50"]
    gains = {error.name: error.ap50_gain for error in analysis.errors}
    for name in ("duplicate", "both", "background"):
        kept = [row for row in FOUND if row[-1] != name]
        assert gains[name] == pytest.approx(metric_of(TRUE, kept).compute()["box_ap50"] - base), name
    mended = [(1, 1, 0.7, 50, 50, 20, 20, "") if row[-1] == "classification" else row for row in FOUND]
    assert gains["classification"] == pytest.approx(metric_of(TRUE, mended).compute()["box_ap50"] - base)
    mended = [(1, 1, 0.6, 50, 50, 20, 20, "") if row[-1] == "localisation" else row for row in FOUND]
    assert gains["localisation"] == pytest.approx(metric_of(TRUE, mended).compute()["box_ap50"] - base)
    assert gains["missed"] == pytest.approx(
        metric_of([row for row in TRUE if row[:3] != (2, 0, 0)], FOUND).compute()["box_ap50"] - base
    )


def test_confusion_counts_every_object_once(analysis: DetectionAnalysis) -> None:
    assert metric_of(TRUE, FOUND).analysis().threshold == 0.9, "F1 of 2 / (1 + 4) there, of 4 / (7 + 4) from 0.3 on"
    # a: two found, one missed; b: found as a; background: the duplicate, the others in the way, and the empty spot
    assert analysis.confusion.tolist() == [[2, 0, 1], [1, 0, 0], [2, 2, 0]]


def test_classes_images_and_json(analysis: DetectionAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    first = analysis.classes[0]
    assert (first.name, first.objects, first.detections) == ("a", 3, 5)
    assert (first.threshold, first.precision, first.recall, first.f1) == (0.9, 1.0, 1 / 3, 0.5)
    assert [(row.file_name, row.right, row.wrong, row.missed) for row in analysis.worst] == [
        ("1.jpg", 1, 5, 1),
        ("2.jpg", 1, 0, 1),
    ]
    print_json(analysis.as_dict())
    document = json.loads(capsys.readouterr().out)
    assert document["classes"][0]["mask_ap"] is None
    assert len(document["curves"][0]["precision"]) == 101


def test_our_ap50_is_coco_s(shared: Path) -> None:
    folder = shared / "data" / "coco_eval_check"
    truth = json.loads((folder / "annotations" / "instances_val2014_100.json").read_text())
    names, ids = [c["name"] for c in truth["categories"]], [c["id"] for c in truth["categories"]]
    file = folder / "results" / "instances_val2014_fakebbox100_results.json"
    metric = score_results(names, ids, truth, file)
    found = metric.found.best()
    true = true_objects(truth, ids)
    matching = match(found, true)
    kept = np.argsort(-found.scores, kind="stable")
    kept = kept[matching.kind[kept] != 6]
    ap = average_precision(found.labels[kept], matching.kind[kept] == 0, true.counts(len(names)))
    assert np.nanmean(ap) == pytest.approx(metric.compute()["box_ap50"], abs=1e-12)
    expected = [metric.scores().ap(iou=0, label=label) for label in range(len(names))]
    np.testing.assert_allclose(ap, expected, atol=1e-12)


def test_more_than_a_hundred_of_a_class_are_left_out_as_coco_leaves_them() -> None:
    found = [(1, 0, 1 - at / 200, 0, 0, 10, 10) for at in range(120)]
    assert len(metric_of(TRUE, found).found.best()) == 100
