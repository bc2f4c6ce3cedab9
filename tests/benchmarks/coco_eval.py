"""Time scoring 5,000 images x 100 detections x 80 classes against pycocotools: `python tests/benchmarks/coco_eval.py`.

Both read the same two files, one after the other in one process, and must come to the same twelve numbers. Times are of
the processor, in seconds: a busy machine lengthens them little. pycocotools takes a minute or two, and 4 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.scoring.results import read_results
from pvtctl.tasks.detection.scoring.scores import NAMES, RECALL_NAMES

CLASSES, DETECTIONS = 80, 100


def make(folder: Path, images: int) -> tuple[Path, Path]:
    """Files of made-up truth, some seven objects an image, and of detections around it, half of the right class."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = 1 + int(rng.poisson(6.3))
        labels = rng.choice(rng.choice(CLASSES, 3), count) + 1
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        boxes = np.concatenate([rng.random((count, 2)) * ([640, 480] - sides).clip(1), sides], 1)
        crowd = rng.random(count) < 0.01
        for box, label, is_crowd in zip(boxes.round(2).tolist(), labels.tolist(), crowd.tolist(), strict=True):
            row = {
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(is_crowd),
            }
            annotations.append({"id": len(annotations) + 1, **row})
        at = rng.integers(0, count, DETECTIONS)
        found = boxes[at] + rng.normal(0, 0.12, (DETECTIONS, 4)) * boxes[at][:, [2, 3, 2, 3]]
        found[:, 2:] = found[:, 2:].clip(1)
        guess = np.where(rng.random(DETECTIONS) < 0.5, labels[at], rng.integers(1, CLASSES + 1, DETECTIONS))
        scores = np.sort(rng.beta(0.5, 3, DETECTIONS).astype(np.float32))[::-1]
        rows = zip(found.astype(np.float32).tolist(), guess.tolist(), scores.tolist(), strict=True)
        results += [{"image_id": image, "category_id": label, "bbox": b, "score": score} for b, label, score in rows]
    listed = [{"id": at, "width": 640, "height": 480, "file_name": f"{at}.jpg"} for at in range(1, images + 1)]
    categories = [{"id": at, "name": str(at)} for at in range(1, CLASSES + 1)]
    truth_file, results_file = folder / "truth.json", folder / "results.json"
    truth_file.write_text(json.dumps({"images": listed, "categories": categories, "annotations": annotations}))
    results_file.write_text(json.dumps(results))
    return truth_file, results_file


def ours(truth_file: Path, results_file: Path) -> tuple[float, float, list[float]]:
    truth = json.loads(truth_file.read_text())
    ids = [category["id"] for category in truth["categories"]]
    start = time.process_time()
    found = read_results(results_file, truth, ids)
    read = time.process_time() - start
    metric = DetectionMetric([str(each) for each in ids], ids, truth, masks=False)
    metric.add(found)
    start = time.process_time()
    numbers = metric.compute()
    return read, time.process_time() - start, [numbers[f"box_{name}"] for name in (*NAMES, *RECALL_NAMES)]


def pycocotools(truth_file: Path, results_file: Path) -> tuple[float, float, list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        start = time.process_time()
        found = truth.loadRes(str(results_file))
        read = time.process_time() - start
        evaluation = COCOeval(truth, found, "bbox")
        start = time.process_time()
        evaluation.evaluate()
        evaluation.accumulate()
        scored = time.process_time() - start
        evaluation.summarize()
    return read, scored, evaluation.stats.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make(Path(folder), options.images)
        print(f"results file: {files[1].stat().st_size / 1e6:.0f} MB")
        print("| | read s | evaluate + accumulate s | both |\n| --- | ---: | ---: | ---: |")
        rows = {"ours": ours(*files), "pycocotools": pycocotools(*files)}
    for name, (read, scored, _) in rows.items():
        print(f"| {name} | {read:.2f} | {scored:.2f} | {read + scored:.2f} |")
    (read, scored, mine), (their_read, their_scored, theirs) = rows.values()
    both = (their_read + their_scored) / (read + scored)
    print(f"| times as fast | {their_read / read:.1f} | {their_scored / scored:.1f} | {both:.1f} |")
    print(f"largest difference of the twelve numbers: {np.abs(np.subtract(mine, theirs)).max():.1e}")


if __name__ == "__main__":
    main()
