"""Reference cases of data and scores: rendered scenes, augmentation draws, schedules and metrics on a made-up set."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from reference_values import digest, image, uniform

from pvtctl.cli.main import main
from pvtctl.data.images import TensorPicture
from pvtctl.data.scenes.scene import SCENE_CLASSES, Scene, render_scene
from pvtctl.engine.schedule import Schedule
from pvtctl.models.losses.cross_entropy import classification_loss
from pvtctl.models.structures import Objects
from pvtctl.recipe.schema import ScheduleSettings
from pvtctl.tasks.classification.metric import ClassificationMetric
from pvtctl.tasks.classification.mixup import Mixup
from pvtctl.tasks.classification.settings import Augment
from pvtctl.tasks.classification.transforms import EvalTransform, TrainTransform
from pvtctl.tasks.depth.metric import DepthMetric
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.depth.transforms import DepthTransform
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.transforms import DetectionTransform
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.segmentation.settings import SegmentationData
from pvtctl.tasks.segmentation.transforms import SegmentationTransform

Case = Callable[[], dict[str, Any]]


def scenes() -> dict[str, Any]:
    """Hashes of images and annotations: every bit is the same on every machine."""
    found = {}
    for seed, split, index, size, materials in (
        (0, "train", 0, 64, "any"),
        (0, "train", 17, (48, 80), "any"),
        (0, "val", 0, 64, "any"),
        (0, "val", 5, 96, "typical"),
        (3, "train", 1, 64, "typical"),
    ):
        one = render_scene(seed, split, index, size, materials)
        name = f"{materials} {split} {index} of seed {seed}"
        found[f"{name}: image"] = digest(one.image)
        found[f"{name}: objects"] = digest(one.boxes, one.labels, one.masks)
        found[f"{name}: maps"] = digest(one.semantic, one.depth)
        found[f"{name}: classes"] = " ".join(map(str, [one.label, *one.labels.tolist()]))
    return found


def _scene(index: int, size: tuple[int, int] = (72, 100)) -> tuple[Scene, torch.Tensor]:
    scene = render_scene(1, "train", index, size)
    return scene, torch.from_numpy(scene.image).permute(2, 0, 1).contiguous()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classification_augmentation() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for seed in range(6):
        picture = TensorPicture(_scene(seed)[1])
        found[f"train {seed}"] = TrainTransform(64, Augment())(picture, _generator(seed))
    found["eval"] = EvalTransform(48, 56)(TensorPicture(_scene(0)[1]))
    labels = torch.tensor([0, 3, 1, 4])
    for key in range(6):
        images, targets = Mixup(5, Augment())(image(4, 3, 24, 32), labels, key)
        found |= {f"mixup {key}": images, f"mixup {key} targets": targets}
    return found


def detection_augmentation(**resize: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    settings = DetectionData(short_sides=(64, 80, 96), long_side=128, crop=0.5, test_short_side=80, **resize)
    transform = DetectionTransform(settings)
    for seed in range(4):
        scene, pixels = _scene(seed)
        boxes, labels, masks = (torch.from_numpy(each) for each in (scene.boxes, scene.labels, scene.masks))
        moved, objects = transform.train(pixels, Objects(boxes, labels, masks), _generator(seed))
        assert objects.masks is not None
        found |= {f"train {seed}": moved, f"boxes {seed}": objects.boxes}
        found[f"masks {seed}"] = objects.masks.flatten(1).float().mean(1)
    return found | {"eval": transform.evaluate(_scene(0)[1])}


def segmentation_augmentation() -> dict[str, Any]:
    found: dict[str, Any] = {}
    transform = SegmentationTransform(SegmentationData(short_side=72, long_side=288, crop=(64, 64), test_short_side=80))
    for seed in range(4):
        scene, pixels = _scene(seed)
        moved, labels = transform.train(pixels, torch.from_numpy(scene.semantic).byte(), _generator(seed))
        found |= {f"train {seed}": moved, f"labels {seed}": labels}
    return found | {"eval": transform.evaluate(_scene(0)[1])}


def depth_augmentation() -> dict[str, Any]:
    found: dict[str, Any] = {}
    transform = DepthTransform(DepthData(size=(64, 64), photometric=True, test_size=(64, 96)))
    for seed in range(4):
        scene, pixels = _scene(seed)
        moved, metres = transform.train(pixels, torch.from_numpy(scene.depth), _generator(seed))
        found |= {f"train {seed}": moved, f"depth {seed}": metres}
    return found | {"eval": transform.evaluate(_scene(0)[1])}


def schedules() -> dict[str, Any]:
    """Learning rates over 20 epochs of 10 steps."""
    options: dict[str, dict[str, Any]] = {
        "cosine": {},
        "official_lagging": {},
        "poly": {"warmup_steps": 15, "min_lr": 0.0},
        "step": {"steps": [8, 11], "warmup_epochs": 0},
        "constant": {"warmup_epochs": 2},
    }
    found = {}
    for name, own in options.items():
        curve = ScheduleSettings(name=name, **own)  # type: ignore[arg-type]
        schedule = Schedule(curve, lr=1e-3, epochs=20, steps_per_epoch=10)
        found |= {f"{name} {step}": schedule.at(step) for step in (0, 1, 9, 10, 14, 49, 50, 80, 111, 150, 199)}
    return found


def classification_scores() -> dict[str, Any]:
    logits = torch.from_numpy(uniform("logits", (60, 12))) * 3
    labels = torch.arange(60) % 12
    logits[torch.arange(60), labels] += torch.from_numpy(uniform("right", (60,))) + 2
    metric = ClassificationMetric(SCENE_CLASSES)
    for part in (slice(0, 32), slice(32, 60)):
        ids = [str(at) for at in range(60)[part]]
        metric.update(logits[part], SimpleNamespace(labels=labels[part], ids=ids))
    soft = torch.from_numpy(uniform("soft", (60, 12))).softmax(1)
    losses = {
        "loss of classes": classification_loss(logits, labels),
        "loss of shares": classification_loss(logits, soft),
    }
    return metric.compute() | {name: loss.item() for name, loss in losses.items()}


def segmentation_scores() -> dict[str, Any]:
    metric = SegmentationMetric([str(at) for at in range(15)])
    for index in range(4):
        truth = torch.from_numpy(_scene(index)[0].semantic).byte()
        prediction = truth.roll((index, 2 * index), (0, 1)).clamp(max=14)
        metric.update([prediction], SimpleNamespace(targets=[truth], ids=[str(index)]))
    return metric.compute() | {f"iou {one.name}": one.iou for one in metric.classes() if one.pixels}


def depth_scores() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for space, alignment, crop in (
        ("metres", "none", "none"),
        ("metres", "median", "garg"),
        ("inverse", "scale_shift", "eigen"),
    ):
        metric = DepthMetric(space=space, alignment=alignment, crop=crop, max_depth=10)
        for index in range(4):
            truth = torch.from_numpy(_scene(index)[0].depth)
            metres = (truth + 0.2) * (1 + 0.3 * torch.from_numpy(uniform(f"wrong {index}", tuple(truth.shape))))
            batch = SimpleNamespace(targets=[truth], ids=[str(index)], indices=torch.tensor([index]))
            metric.update([metres if space == "metres" else 1 / metres], batch)
        found |= {f"{space} {alignment} {name}": value for name, value in metric.compute().items()}
    return found


def coco_scores(kind: str) -> dict[str, Any]:
    """`pvtctl eval coco` on scenes, against their own objects moved by some pixels."""
    images, annotations, results = [], [], []
    for index in range(12):
        scene, _ = _scene(index)
        images.append({"id": index + 1, "file_name": f"{index}.jpg", "height": 72, "width": 100})
        for at, (box, label, mask) in enumerate(zip(scene.boxes, scene.labels.tolist(), scene.masks, strict=True)):
            x0, y0, x1, y1 = box.tolist()
            shared = {"image_id": index + 1, "category_id": label + 1}
            annotations.append(
                {
                    **shared,
                    "id": len(annotations) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(mask.sum()),
                    "iscrowd": int(at == 3),
                    "segmentation": _rle(mask),
                }
            )
            for again in range(2):
                dx, dy, score = (uniform(f"found {index} {at} {again}", (3,)) * (3, 3, 0.5)).tolist()
                entry: dict[str, Any] = {**shared, "score": round(score + 0.5, 4)}
                if again and at % 2:
                    entry["category_id"] = (label + 1) % 12 + 1
                if kind == "bbox":
                    results.append({**entry, "bbox": [x0 + dx, y0 + dy, x1 - x0 + dy, y1 - y0 - dx]})
                else:
                    results.append({**entry, "segmentation": _rle(np.roll(mask, (round(dy), round(dx)), (0, 1)))})
    categories = [{"id": at + 1, "name": name} for at, name in enumerate(SCENE_CLASSES)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    with tempfile.TemporaryDirectory() as folder:
        files = {"--annotations": truth, "--results": results}
        arguments = ["eval", "coco", "--backend", "numpy", "--json"]
        for option, content in files.items():
            path = Path(folder) / f"{option[2:]}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
            arguments += [option, str(path)]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(arguments) == 0
    return {name: value for name, value in json.loads(printed.getvalue())["metrics"].items() if value is not None}


def _rle(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


AUGMENTATIONS: dict[str, Case] = {
    "classification": classification_augmentation,
    "detection": detection_augmentation,
    "detection, antialiased": partial(detection_augmentation, resize="antialias"),
    "segmentation": segmentation_augmentation,
    "depth": depth_augmentation,
}
SCORES: dict[str, Case] = {
    "classification": classification_scores,
    "segmentation": segmentation_scores,
    "depth": depth_scores,
    "coco boxes": partial(coco_scores, "bbox"),
    "coco masks": partial(coco_scores, "segm"),
}
EXACT: dict[str, Case] = {"scenes": scenes, "schedules": schedules}
