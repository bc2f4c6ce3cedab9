"""How cost grows with the data: `python tests/benchmarks/growth.py --out FOLDER`, about ten minutes and 8 GB at COCO's size.

* Annotation files, made up, up to the size of COCO's training set (118,287 images, 860,000 objects with polygons): seconds of the
  processor to open one, memory while it is opened and after, and what a loader process adds by reading all of it.
* Evaluation: what the metric of each task keeps, and the seconds that it takes, by the number of images.

Each number comes from a process of its own. Lines that end in "linear" continue the smallest measurement in proportion. How cost grows
with image size and batch size: `pvtctl latency --plot` (docs/cost.md).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

COCO_IMAGES = 118_287
ANNOTATED = (7_393, 14_786, 29_572, 59_144, COCO_IMAGES)
EVALUATED = (500, 1000, 2000, 4000, 8000)
OBJECTS, CORNERS = 7.27, 21
"""Objects an image, and corners of a polygon, as in COCO's training set (its file has 448 MB)."""
DETECTIONS = 100
SIDE = 64
"""Of label and depth maps, in pixels."""
HEIGHT, WIDTH = 480, 640


def write_annotations(file: Path, images: int) -> None:
    """A COCO file of that many images, written as it is made."""
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    with file.open("w", encoding="utf-8") as out:
        names = ",".join(f'{{"id":{at},"name":"class {at}"}}' for at in range(1, 81))
        out.write(f'{{"categories":[{names}],"annotations":[')
        comma, number = "", 0
        for image in range(images):
            for _ in range(int((image + 1) * OBJECTS) - int(image * OBJECTS)):
                number += 1
                half = rng.uniform(4, 100, 2)
                middle = half + rng.random(2) * ([WIDTH, HEIGHT] - 2 * half)
                box = [*(middle - half).round(2).tolist(), *(2 * half).round(2).tolist()]
                entry = {"id": number, "image_id": image, "category_id": number % 80 + 1, "iscrowd": 0, "bbox": box}
                entry |= {"area": box[2] * box[3], "segmentation": [(middle + half * circle).round(2).ravel().tolist()]}
                out.write(comma + json.dumps(entry))
                comma = ","
        out.write('],"images":[')
        out.write(
            ",".join(
                f'{{"id":{at},"file_name":"{at:012}.jpg","height":{HEIGHT},"width":{WIDTH}}}' for at in range(images)
            )
        )
        out.write("]}")


def opened(file: str) -> dict[str, float]:
    """Opening an annotation file: seconds, and MiB at the peak, afterwards, and of a copied process that has read all."""
    from pvtctl.tasks.detection.coco import CocoAnnotations

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = _mib("status", "VmRSS"), time.process_time()
    annotations = CocoAnnotations.read(file)
    seconds = time.process_time() - start
    peak = _mib("status", "VmHWM") - before
    gc.collect()
    after = _mib("status", "VmRSS") - before
    return {"seconds": seconds, "peak_mib": peak, "kept_mib": after, "worker_mib": _of_a_copy(annotations)}


def _of_a_copy(annotations: Any) -> float:
    """MiB that a forked process does not share after it has read every image's objects, less those before."""
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        before = _mib("smaps_rollup", "Private_Dirty")
        for index in range(len(annotations)):
            annotations.objects(index)
        os.write(writable, str(_mib("smaps_rollup", "Private_Dirty") - before).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, encoding="ascii") as pipe:
        grown = float(pipe.read())
    os.waitpid(child, 0)
    return grown


def _mib(file: str, field: str) -> float:
    lines = Path(f"/proc/self/{file}").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def classification(classes: int = 1000) -> tuple[Any, Callable[[int], None]]:
    """The metric, and a function that updates it with one image."""
    from pvtctl.tasks.classification.metric import ClassificationMetric

    metric = ClassificationMetric([str(at) for at in range(classes)])

    def update(at: int) -> None:
        logits = torch.randn(1, classes, generator=torch.Generator().manual_seed(at))
        metric.update(logits, SimpleNamespace(labels=torch.tensor([at % classes]), ids=[f"{at}.jpg"]))  # type: ignore[arg-type]

    return metric, update


def segmentation(classes: int = 150) -> tuple[Any, Callable[[int], None]]:
    from pvtctl.tasks.segmentation.metric import SegmentationMetric

    metric = SegmentationMetric([str(at) for at in range(classes)])

    def update(at: int) -> None:
        maps = torch.full((2, SIDE, SIDE), at % classes, dtype=torch.uint8)
        maps[1, : at % SIDE] = (at + 1) % classes
        metric.add(maps[0], maps[1], f"{at}.png")

    return metric, update


def depth() -> tuple[Any, Callable[[int], None]]:
    from pvtctl.tasks.depth.metric import DepthMetric

    metric = DepthMetric(space="metric", alignment="none", max_depth=10)

    def update(at: int) -> None:
        maps = 1 + torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(at))
        batch = SimpleNamespace(targets=[maps[0]], ids=[f"{at}.png"], indices=torch.tensor([at]))
        metric.update([maps[1]], batch)  # type: ignore[arg-type]

    return metric, update


def detection(images: int = 0, number: int = DETECTIONS) -> tuple[Any, Callable[[int], None]]:
    from pvtctl.models.structures import Detections
    from pvtctl.tasks.detection.metric import DetectionMetric

    listed = [{"id": at, "width": WIDTH, "height": HEIGHT, "file_name": f"{at}.jpg"} for at in range(images)]
    annotations = [
        {"id": at + 1, "image_id": at // 7, "category_id": at % 80, "bbox": [at % 300, 9.0, 50.0, 60.0]}
        | {"area": 3000.0, "iscrowd": 0}
        for at in range(7 * images)
    ]
    categories = [{"id": at, "name": str(at)} for at in range(80)]
    truth = {"images": listed, "annotations": annotations, "categories": categories}
    metric = DetectionMetric([str(at) for at in range(80)], list(range(80)), truth, masks=False)

    def update(at: int) -> None:
        generator = torch.Generator().manual_seed(at)
        corners = 300 * torch.rand(number, 2, generator=generator)
        boxes = torch.cat((corners, corners + 60), 1)
        labels = torch.randint(0, 80, (number,), generator=generator)
        found = Detections(boxes, torch.rand(number, generator=generator), labels)
        metric.update([found], SimpleNamespace(image_ids=[at]))  # type: ignore[arg-type]

    return metric, update


TASKS = {
    "classification, 1000 classes": lambda images: classification(),
    "segmentation, 150 classes": lambda images: segmentation(),
    "depth": lambda images: depth(),
    f"detection, {DETECTIONS} an image": detection,
}


def kept_bytes(update: Callable[[int], None], first: int, last: int) -> int:
    """Bytes that the images from `first` to `last` leave behind."""
    tracemalloc.start()
    try:
        update(first)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for at in range(first + 1, last + 1):
            update(at)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def evaluated(task: str, images: int) -> dict[str, float]:
    """What the metric of a task keeps of `images`, and the seconds of updates and result."""
    _, update = TASKS[task](images)
    kept = kept_bytes(update, 0, images)
    metric, update = TASKS[task](images)
    start = time.process_time()
    for at in range(images):
        update(at)
    metric.compute()
    return {"kept_mib": kept / 2**20, "seconds": time.process_time() - start}


def _apart(name: str, *given: Any) -> dict[str, float]:
    """The result of a function of this file in a process of its own."""
    what = json.dumps([name, *given])
    run = [sys.executable, __file__, "--worker", what]
    measured: dict[str, float] = json.loads(subprocess.run(run, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return measured


def measure(
    annotated: tuple[int, ...], images: tuple[int, ...], folder: Path
) -> dict[str, dict[int, dict[str, float]]]:
    """What is measured -> number of images -> numbers."""
    found: dict[str, dict[int, dict[str, float]]] = {"annotations": {}}
    for count in annotated:
        file = folder / "annotations.json"
        write_annotations(file, count)
        found["annotations"][count] = _apart("opened", str(file)) | {"file_mib": file.stat().st_size / 2**20}
        file.unlink()
    for task in TASKS:
        found[task] = {count: _apart("evaluated", task, count) for count in images}
    return found


def table(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """Markdown."""
    lines = ["| | images | seconds | MiB kept | MiB at the peak | MiB a loader process | MiB of the file |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for what, rows in found.items():
        for images, row in rows.items():
            keys = ("seconds", "kept_mib", "peak_mib", "worker_mib", "file_mib")
            cells = [f"{row[key]:.3g}" if key in row else "" for key in keys]
            lines.append(f"| {what} | {images:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, dict[int, dict[str, float]]], file: Path) -> None:
    from pvtctl.views.curves import CurvePanel, Series, draw_panels

    def curves(what: str, key: str, label: str, *, linear: bool = False) -> list[Series]:
        xs = list(found[what])
        values = [found[what][x][key] for x in xs]
        line = [Series(f"{label}, linear", xs, [values[0] * x / xs[0] for x in xs])] if linear else []
        return [Series(label, xs, values), *line]

    opening = curves("annotations", "seconds", "to open", linear=True)
    memory = [
        *curves("annotations", "peak_mib", "while opening", linear=True),
        *curves("annotations", "kept_mib", "open"),
        *curves("annotations", "worker_mib", "added by a loader process"),
    ]
    tasks = [task for task in found if task != "annotations"]
    kept = [series for task in tasks for series in curves(task, "kept_mib", task)]
    images = list(found[tasks[-1]])
    kept.append(Series("detections as columns", images, [52 * DETECTIONS * count / 2**20 for count in images]))
    spent = [series for task in tasks for series in curves(task, "seconds", task)]
    panels = [
        CurvePanel("Annotations: time", "seconds", opening, from_zero=True),
        CurvePanel("Annotations: memory", "MiB", memory, from_zero=True),
        CurvePanel("Evaluation: memory of the metric", "MiB", kept, from_zero=True),
        CurvePanel("Evaluation: time of the metric", "seconds", spent, from_zero=True),
    ]
    draw_panels(file, panels, "images", title="Growth with the number of images", same_xs=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("growth"), help="folder for growth.md, growth.json and growth.png"
    )
    parser.add_argument("--quick", action="store_true", help="small numbers: a trial of the script")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, *given = json.loads(options.worker)
        print(json.dumps({"opened": opened, "evaluated": evaluated}[name](*given)))
        return
    sizes = ((100, 200, 400), (50, 100, 200)) if options.quick else (ANNOTATED, EVALUATED)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(*sizes, Path(folder))
    (options.out / "growth.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    (options.out / "growth.md").write_text(table(found), encoding="utf-8")
    draw(found, options.out / "growth.png")
    print(table(found), end="")


if __name__ == "__main__":
    main()
