"""Time COCO's metrics, reading included: `python tests/benchmarks/coco_eval.py`, 5,000 images x 100 detections x 80 classes.

The contestants read the same two files, each in a process of its own, in turns, and must come to the same twelve numbers to the
bit. Times are of the processor, user and system, in seconds: a busy machine lengthens them little. `--masks` scores masks (of 500
images). pycocotools takes one to two minutes a turn, and 2 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from run import machine

CLASSES, DETECTIONS = 80, 100
HEIGHT, WIDTH = 480, 640
Scored = tuple[float, float, list[float]]
"""Seconds to read the results, seconds to score them, the twelve numbers."""


def make(folder: Path, images: int, *, masks: bool) -> tuple[Path, Path]:
    """Files of made-up truth, some seven objects an image, and of detections around it, half of the right class."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = 1 + int(rng.poisson(6.3))
        labels = rng.choice(rng.choice(CLASSES, 3), count) + 1
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        boxes = np.concatenate([rng.random((count, 2)) * ([WIDTH, HEIGHT] - sides).clip(1), sides], 1)
        crowd = rng.random(count) < 0.01
        for box, label, is_crowd in zip(boxes.round(2).tolist(), labels.tolist(), crowd.tolist(), strict=True):
            row = {"image_id": image, "category_id": label, "bbox": box, "iscrowd": int(is_crowd)}
            annotations.append({"id": len(annotations) + 1, **row, "area": box[2] * box[3]})
            if masks:
                annotations[-1]["segmentation"] = [ellipse(box)]
        at = rng.integers(0, count, DETECTIONS)
        found = boxes[at] + rng.normal(0, 0.12, (DETECTIONS, 4)) * boxes[at][:, [2, 3, 2, 3]]
        found[:, 2:] = found[:, 2:].clip(1)
        guess = np.where(rng.random(DETECTIONS) < 0.5, labels[at], rng.integers(1, CLASSES + 1, DETECTIONS))
        scores = np.sort(rng.beta(0.5, 3, DETECTIONS).astype(np.float32))[::-1]
        for box, label, score in zip(found.astype(np.float32).tolist(), guess.tolist(), scores.tolist(), strict=True):
            shape = {"segmentation": run_lengths(box)} if masks else {"bbox": box}
            results.append({"image_id": image, "category_id": label, **shape, "score": score})
    listed = [{"id": at, "width": WIDTH, "height": HEIGHT, "file_name": f"{at}.jpg"} for at in range(1, images + 1)]
    categories = [{"id": at, "name": str(at)} for at in range(1, CLASSES + 1)]
    truth_file, results_file = folder / "truth.json", folder / "results.json"
    truth_file.write_text(json.dumps({"images": listed, "categories": categories, "annotations": annotations}))
    results_file.write_text(json.dumps(results))
    return truth_file, results_file


def ellipse(box: list[float]) -> list[float]:
    """A polygon of 24 corners in a box x, y, width, height."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    middle, half = np.asarray(box[:2]) + np.asarray(box[2:]) / 2, np.asarray(box[2:]) / 2
    points: list[float] = (middle + half * np.stack([np.cos(turn), np.sin(turn)], 1)).round(2).ravel().tolist()
    return points


def run_lengths(box: list[float]) -> dict[str, Any]:
    from pycocotools import mask

    [drawn] = mask.frPyObjects([ellipse(box)], HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": drawn["counts"].decode()}


def ours(backend: str) -> Callable[[Path, Path, str], Scored]:
    def score(truth_file: Path, results_file: Path, kind: str) -> Scored:
        from pvtctl.tasks.detection.metric import DetectionMetric
        from pvtctl.tasks.detection.scoring.results import read_results
        from pvtctl.tasks.detection.scoring.scores import NAMES, RECALL_NAMES

        truth = json.loads(truth_file.read_text())
        ids = [category["id"] for category in truth["categories"]]
        start = time.process_time()
        found = read_results(results_file, truth, ids)
        read = time.process_time()
        metric = DetectionMetric([str(each) for each in ids], ids, truth, masks=kind == "segm", backend=backend)
        metric.add(found)
        numbers = metric.scores("mask" if kind == "segm" else "box").numbers()
        scored = time.process_time()
        return read - start, scored - read, [numbers[name] for name in (*NAMES, *RECALL_NAMES)]

    return score


def peer(library: str) -> Callable[[Path, Path, str], Scored]:
    def score(truth_file: Path, results_file: Path, kind: str) -> Scored:
        if library == "hotcoco":
            from hotcoco import COCO, COCOeval
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(truth_file))
            start = time.process_time()
            found = truth.loadRes(str(results_file))
            read = time.process_time()
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            scored = time.process_time()
            evaluation.summarize()
        return read - start, scored - read, evaluation.stats.tolist()

    return score


CONTESTANTS = {
    "pvtctl with hotcoco": ours("hotcoco"),
    "pvtctl without (numpy)": ours("numpy"),
    "hotcoco itself": peer("hotcoco"),
    "pycocotools": peer("pycocotools"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, help="default: 5000, masks 500")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    kind = "segm" if options.masks else "bbox"
    if options.worker:
        name, *files = json.loads(options.worker)
        print(json.dumps(CONTESTANTS[name](*map(Path, files), kind)))
        return
    print(machine(), file=sys.stderr)
    times: dict[str, list[list[float]]] = {name: [] for name in CONTESTANTS}
    numbers = set()
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder), options.images or (500 if options.masks else 5000), masks=options.masks)
        print(f"results file: {files[1].stat().st_size / 1e6:.0f} MB")
        for name in [*CONTESTANTS] * options.turns:
            command = [sys.executable, __file__, "--worker", json.dumps([name, *map(str, files)])]
            output = subprocess.run(
                [*command, *(["--masks"] if options.masks else [])], stdout=subprocess.PIPE, check=True, text=True
            ).stdout
            read, scored, twelve = json.loads(output)
            times[name].append([read, scored, read + scored])
            numbers.add(tuple(twelve))
    print("| | read s | evaluate + accumulate s | both (min-max) | times pvtctl with hotcoco (min-max) |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rows in times.items():
        both = [row[2] for row in rows]
        ratios = [
            mine[2] / theirs
            for mine, theirs in zip(rows, [row[2] for row in times["pvtctl with hotcoco"]], strict=True)
        ]
        read, scored, sums = (statistics.median(column) for column in zip(*rows, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {read:.2f} | {scored:.2f} | {sums:.2f} ({min(both):.2f}-{max(both):.2f}) | {spread} |")
    print("the twelve numbers: " + ("equal to the bit" if len(numbers) == 1 else f"{len(numbers)} different sets"))


if __name__ == "__main__":
    main()
