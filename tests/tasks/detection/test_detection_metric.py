"""COCO's numbers: those that COCO published, equal to the bit from all implementations, from ranks and from saved files."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.models.structures import Detections
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.scoring import other_backends
from pvtctl.tasks.detection.scoring.compared import Kind
from pvtctl.tasks.detection.scoring.results import read_results, score_results, write_results
from pvtctl.tasks.detection.scoring.scores import (
    BACKENDS,
    NAMES,
    RECALL_NAMES,
    CocoScores,
    choose_backend,
    evaluate_columns,
    why_missing,
)

CATEGORIES = [7, 3, 90]  # sparse and out of order
NAMES_OF = ["cat", "dog", "bird"]
SIZE = (120, 160)


def encode(box: np.ndarray) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8, order="F")
    x0, y0, x1, y1 = box.round().astype(int).tolist()
    mask[max(y0, 0) : y1, max(x0, 0) : x1] = 1
    return dict(rle.encode(mask))


def random_case(seed: int, images: int = 12) -> tuple[dict[str, Any], list[Detections], list[int]]:
    """Truth with crowds, and detections around it with tied scores, wrong classes and duplicates."""
    rng = np.random.default_rng(seed)
    ids = (rng.permutation(500)[:images] + 1).tolist()
    annotations: list[dict[str, Any]] = []
    found = []
    for image in ids:
        count = int(rng.integers(0, 6))
        corner, sides = rng.uniform(0, 90, (count, 2)), np.exp(rng.uniform(1.5, 4.2, (count, 2)))
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        labels = rng.integers(0, 2, count)  # no bird anywhere
        for box, label in zip(boxes, labels.tolist(), strict=True):
            xywh = [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]
            mask = encode(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": CATEGORIES[label],
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": {**mask, "counts": mask["counts"].decode()},
                }
            )
        number = int(rng.integers(0, 9)) if count else 3
        if count:
            at = rng.integers(0, count, number)
            moved = boxes[at] + rng.normal(0, 4, (number, 4)).astype(np.float32)
            near = np.concatenate([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])], 1)
            own = np.where(rng.random(number) < 0.8, labels[at], rng.integers(0, 3, number))
        else:
            near, own = np.asarray([[1, 2, 30, 40]] * number, np.float32), np.asarray([0, 1, 2])
        scores = -np.sort(-rng.integers(1, 12, number) / np.float32(13)).astype(np.float32)
        found.append(
            Detections(torch.tensor(near), torch.tensor(scores), torch.tensor(own), [encode(box) for box in near])
        )
    images_of = [{"id": i, "height": SIZE[0], "width": SIZE[1], "file_name": f"{i}.jpg"} for i in ids]
    categories = [{"id": key, "name": name} for key, name in zip(CATEGORIES, NAMES_OF, strict=True)]
    return {"images": images_of, "annotations": annotations, "categories": categories}, found, ids


def batch(ids: list[int]) -> Any:
    return SimpleNamespace(image_ids=ids)


def filled(seed: int, **options: Any) -> DetectionMetric:
    truth, found, ids = random_case(seed)
    metric = DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=True, **options)
    metric.update(found, batch(ids))
    return metric


def equal_bits(one: CocoScores, other: CocoScores) -> None:
    assert one.precision.shape == other.precision.shape
    assert one.precision.tobytes() == other.precision.tobytes()
    assert one.recall.tobytes() == other.recall.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "what"), [("bbox", "box"), ("segm", "mask")])
def test_numbers_that_coco_published(shared: Path, kind: str, what: str) -> None:
    """By our own back end; the others in tests/cli/test_eval_detection.py."""
    folder = shared / "data" / "coco_eval_check"
    truth = json.loads((folder / "annotations" / "instances_val2014_100.json").read_text())
    names, ids = [c["name"] for c in truth["categories"]], [c["id"] for c in truth["categories"]]
    file = folder / "results" / f"instances_val2014_fake{kind}100_results.json"
    numbers = score_results(names, ids, truth, file, backend="numpy").compute()
    text = (folder / "results" / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1].split("type=")[0]
    published = [float(line.split("=")[-1]) for line in text.splitlines() if "Average" in line]
    assert [round(numbers[f"{what}_{name}"], 3) for name in (*NAMES, *RECALL_NAMES)] == published


@pytest.mark.parametrize("seed", range(6))
def test_all_back_ends_say_the_same(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    referee = filled(seed, backend="pycocotools")
    for backend in ("numpy", "hotcoco"):
        ours = filled(seed, backend=backend)
        assert json.dumps(ours.compute()) == json.dumps(referee.compute())
        for what in ("box", "mask"):
            equal_bits(ours.scores(what), referee.scores(what))
    assert capfd.readouterr() == ("", ""), "standard output is for results"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_corners_of_the_rules_to_the_bit(seed: int, kind: Kind) -> None:
    """Areas on the borders, objects twice, a crowd on an object, polygons, ties, more than the limit, no order, few images,
    ids 0 and twice, boxes of no size and of an absurd one."""
    rng = np.random.default_rng(seed)
    truth, found, ids = random_case(seed, images=25)
    objects = truth["annotations"]
    for each in objects:
        if rng.random() < 0.3:
            each["area"] = float(rng.choice([0, 32**2, 96**2, 1e10, 2e10]))
        if rng.random() < 0.2:
            (x, y, w, h) = each["bbox"]
            each["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if not each["iscrowd"]:
            del each["iscrowd"]
        if rng.random() < 0.1:
            each["bbox"] = rng.choice([0, -1, 1e-320, 1e6, 1e18], 4).tolist()
        each["id"] //= 2
    again = [{**each, "iscrowd": int(rng.random() < 0.3)} for each in objects]
    truth["annotations"] = objects + [each for each in again if rng.random() < 0.3]
    metric = DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=True)
    metric.update(found, batch(ids))
    many = np.repeat(rng.integers(0, len(metric.found), 3), rng.integers(1, 130, 3))
    rows = rng.permutation(np.append(np.arange(len(metric.found)), many))
    columns = metric.found.take(rows)
    columns = replace(columns, scores=columns.scores.round(int(rng.integers(1, 3))))
    columns = columns.take(columns.labels < 2)
    odd = rng.random(len(columns)) < 0.1
    columns.boxes[odd] = rng.choice([0, 1e-320, 1, 1e6, 1e18], (int(odd.sum()), 4))
    truth["images"] = truth["images"][:-4]
    limit = int(rng.choice([100, 100, 30, 300]))
    referee, *rest = (
        evaluate_columns(truth, CATEGORIES[:2], columns, kind, backend, limit)
        for backend in ("pycocotools", "numpy", "hotcoco")
    )
    assert (referee.precision > 0).any()
    for ours in rest:
        equal_bits(ours, referee)


def test_the_referee_fed_by_itself_says_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pycocotools on the written file, loaded its own way, and our numbers from it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    metric = filled(1)
    rows = json.loads(write_results(tmp_path / "r.json", metric.found, CATEGORIES, metric.truth).read_text())
    gt = COCO()
    gt.dataset = metric.truth
    gt.createIndex()
    for kind, what in (("bbox", "box"), ("segm", "mask")):
        other = "segmentation" if kind == "bbox" else "bbox"  # else loadRes takes a mask's area from its box
        own = [{key: value for key, value in row.items() if key != other} for row in rows]
        evaluation = COCOeval(gt, gt.loadRes(own), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        ours = [metric.compute()[f"{what}_{name}"] for name in (*NAMES, *RECALL_NAMES)]
        assert np.nan_to_num(ours, nan=-1) == pytest.approx(evaluation.stats.tolist(), abs=1e-12)
    capfd.readouterr()


def test_ranks_merge_to_one_and_an_image_counts_once() -> None:
    truth, found, ids = random_case(2)
    whole = filled(2)
    ranks = [DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=True) for _ in range(2)]
    for rank, metric in enumerate(ranks):
        metric.update(found[rank::2], batch(ids[rank::2]))
    ranks[1].update(found[:1], batch(ids[:1]))  # a sampler that pads
    ranks[1].update(found[1:2], batch(ids[1:2]))
    states = [pickle.loads(pickle.dumps(metric.state())) for metric in ranks]
    for metric in ranks:
        metric.merge(states)
        assert json.dumps(metric.compute()) == json.dumps(whole.compute()), "to the bit"
        assert metric.found.scores.tolist() == whole.found.scores.tolist()
        assert metric.found.masks == whole.found.masks


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_saved_file_scores_the_same_bits(tmp_path: Path, backend: str) -> None:
    metric = filled(3, backend=backend)
    path = write_results(tmp_path / "results.json", metric.found, CATEGORIES, metric.truth)
    again = score_results(NAMES_OF, CATEGORIES, metric.truth, path, backend=backend)
    assert (again.found.boxes == metric.found.boxes).all()
    assert (again.found.scores == metric.found.scores).all()
    assert again.found.masks == metric.found.masks
    assert json.dumps(again.compute()) == json.dumps(metric.compute())


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_nothing_found_and_nothing_to_find(backend: str) -> None:
    truth, _, ids = random_case(4)
    metric = DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=True, backend=backend)
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    metric.update([empty] * len(ids), batch(ids))
    numbers = metric.compute()
    assert numbers["box_ap"] == numbers["mask_ap"] == 0
    assert numbers["images"] == len(ids)
    assert math.isnan(metric.scores().ap(label=2)), "the data has no bird"

    bare = DetectionMetric(NAMES_OF, CATEGORIES, {**truth, "annotations": []}, masks=False, backend=backend)
    assert math.isnan(bare.compute()["box_ap"])
    assert why_missing("box_ap", bare.truth) == "no objects in the annotations"
    assert "below 32x32" in why_missing("box_ap_small", metric.truth)
    assert math.isnan(bare.analysis().as_dict()["classes"][0]["ap"])


def test_numbers_that_are_none_are_left_out_and_counted() -> None:
    truth, _, ids = random_case(4)
    metric = DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=False)
    boxes = torch.tensor([[0, 0, 9, 9], [0, float("nan"), 9, 9], [0, 0, 5, 5]])
    metric.update([Detections(boxes, torch.tensor([0.5, 0.4, float("nan")]), torch.tensor([0, 0, 1]))], batch(ids[:1]))
    assert metric.compute()["nonfinite"] == 2
    assert len(metric.found) == 1


def test_words_that_are_no_back_end() -> None:
    with pytest.raises(UsageError, match="no metric backend"):
        choose_backend("coco")
    assert choose_backend("faster") == choose_backend("auto") == "hotcoco"
    with pytest.raises(UsageError, match="no categories"):
        DetectionMetric([], [], {"images": [], "annotations": [], "categories": []}, masks=False)


@pytest.mark.parametrize("module", [None, SimpleNamespace(__version__="1.2.9"), SimpleNamespace()])
def test_without_a_hotcoco_that_fits_our_own_scores(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", module)
    assert choose_backend("auto") == "numpy"
    with pytest.raises(UsageError, match=r"hotcoco 1\.3 or newer is not installed"):
        choose_backend("hotcoco")


class PanicException(BaseException):
    """As Rust's, which `except Exception` lets through."""


@pytest.mark.parametrize(("raised", "seen"), [(PanicException, PvtctlError), (KeyboardInterrupt, KeyboardInterrupt)])
def test_a_panic_in_rust_is_told(
    monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], seen: type[BaseException]
) -> None:
    class Evaluation:
        def __init__(self, *_: Any) -> None:
            raise raised("index out of bounds")

    monkeypatch.setattr("hotcoco.COCOeval", Evaluation)
    with pytest.raises(seen, match="index out of bounds"):
        filled(1, backend="hotcoco").compute()


def test_hotcoco_keeps_to_torch_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    other_backends._process_of_threads.cache_clear()
    filled(1, backend="hotcoco").compute()
    assert os.environ["RAYON_NUM_THREADS"] == str(torch.get_num_threads())
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")
    other_backends._process_of_threads.cache_clear()
    filled(1, backend="hotcoco").compute()
    assert os.environ["RAYON_NUM_THREADS"] == "7", "the user's own"


def test_a_fork_scores_too() -> None:
    """hotcoco's threads are not in a process forked after it has scored."""
    expected = json.dumps(filled(1, backend="hotcoco").compute())
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(json.dumps(filled(1, backend="hotcoco").compute()) != expected)
    assert os.waitpid(child, 0)[1] == 0


def test_truth_is_left_as_it_was() -> None:
    for backend in BACKENDS:
        metric = filled(5, backend=backend)
        before = json.dumps(metric.truth)
        metric.compute()
        assert json.dumps(metric.truth) == before


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_boxes_as_large_as_numbers_go_are_scored(backend: str) -> None:
    truth, found, ids = random_case(1)
    truth["annotations"][0]["bbox"] = [0.0, 0.0, 1e300, 1e300]
    metric = DetectionMetric(NAMES_OF, CATEGORIES, truth, masks=False, backend=backend)
    metric.update(found, batch(ids))
    metric.found.boxes[:2, 2:] = 1.7e308
    assert 0 < metric.compute()["box_ap"] < 1
    assert metric.analysis().threshold > 0


def test_reading_leaves_no_warning(tmp_path: Path) -> None:
    metric = filled(1)
    path = write_results(tmp_path / "r.json", metric.found, CATEGORIES, metric.truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_results(path, metric.truth, CATEGORIES)) == len(metric.found)
