"""The detection task as the engine uses it: classes matched by name, several views of an image as one, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from pvtctl.engine.protocol import Task
from pvtctl.errors import UsageError
from pvtctl.models.structures import Detections, DetectOptions
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.detection.task import NUM_SAMPLES, DetectionTask, merge_views, mirrored
from pvtctl.tasks.from_recipe import build_task
from pvtctl.weights.describe import HeadClasses

SIZE = (20, 30)


def build(*overrides: str, recipe: str = "coco_retinanet_1x", head: HeadClasses | None = None) -> DetectionTask:
    row = None if recipe == "coco_detr_50e" else "pvt_v2_b0"
    narrow: list[Any] = [("model.backbone", {"name": "pvt_v2_b0", "width": 0.25})]
    narrow += [] if row is None else ["model.head.width=32"]
    loaded = load_recipe(recipe, row or "resnet50", "smoke", [*narrow, *overrides])
    task = build_task(loaded, device="cpu", head=head, say=lambda text: None)
    assert isinstance(task, DetectionTask)
    return task


class Fixed(nn.Module):
    """Stands for a detector: one box of each head class in every image, and remembers what it was asked."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.classes = classes
        self.seen: list[Any] = []

    def forward(
        self, images: torch.Tensor, sizes: Any, targets: Any, options: Any = None, originals: Any = None
    ) -> list[Detections]:
        self.seen.append((tuple(images.shape), sizes, options, originals))
        at = torch.arange(self.classes)
        boxes = torch.stack([at, at, at + 5, at + 4], dim=1).float()
        return [Detections(boxes, torch.linspace(0.9, 0.1, self.classes), at) for _ in images]


def first_batch(task: DetectionTask) -> Any:
    return next(iter(task.val_loader(rank=0, world_size=1)))


def test_it_is_a_task_with_its_story() -> None:
    task: Task = build()
    meta = task.meta().as_json()
    assert (meta["head"], meta["backbone"], meta["profile"]) == ("retinanet", "pvt_v2_b0@0.25", "smoke")
    assert meta["num_classes"] == len(meta["class_names"]) == len(meta["category_ids"]) == 12
    assert meta["detection"]["test_short_side"] == 64
    assert task.batches_per_epoch(1) == 4


def test_a_head_with_more_classes_in_another_order_is_matched_by_name() -> None:
    plain = build()
    names = ["zebra", *reversed(plain.val.class_names), "yak"]
    task = build(head=HeadClasses(14, names))
    assert task.train is None
    assert [names[at] for at in task.data_to_head] == task.val.class_names
    model = Fixed(14)
    found = task.predict(model, first_batch(task))
    for one in found:
        assert one.labels.tolist() == list(reversed(range(12))), "zebra and yak are none of the data's"
        assert one.boxes[:, 0].tolist() == list(range(1, 13)), "boxes stay with their labels"
        assert len(one.scores) == 12
    assert task.meta().as_json()["category_ids"] is None, "the head's classes have no ids of the data"


def test_masks_are_dropped_with_their_boxes() -> None:
    task = build(head=HeadClasses(13, ["zebra", *build().val.class_names]))
    mask: dict[str, Any] = {"size": [2, 2], "counts": b"04"}
    found = Detections(torch.zeros(2, 4), torch.ones(2), torch.tensor([0, 3]), [mask | {"of": 0}, mask | {"of": 1}])
    kept = task._of_data(found)
    assert kept.labels.tolist() == [2]
    assert kept.masks == [mask | {"of": 1}]


def test_losses_see_the_heads_labels() -> None:
    task = build(head=HeadClasses(13, ["zebra", *build().val.class_names]))
    batch = first_batch(task)
    seen = []

    class Listening(nn.Module):
        def forward(self, images: Any, sizes: Any, targets: Any) -> dict[str, torch.Tensor]:
            seen.extend(targets)
            return {"loss": torch.zeros(())}

    task.losses(Listening(), batch)
    for own, told in zip(batch.targets, seen, strict=True):
        assert torch.equal(told.labels, own.labels + 1)
        assert torch.equal(told.boxes, own.boxes)


@pytest.mark.parametrize("names", [["zebra"] * 12, None])
def test_classes_that_the_head_lacks_are_an_error(names: list[str] | None) -> None:
    with pytest.raises(UsageError, match="classes"):
        build(head=HeadClasses(12 if names else 7, names))


def test_samples_of_the_split_are_kept_once_each() -> None:
    task = build("data.val_samples=9", head=HeadClasses(12, None))
    model = Fixed(12)
    for _ in range(2):
        for batch in task.val_loader(rank=0, world_size=1):
            task.predict(model, batch)
    assert sorted(task.samples) == sorted({at * 9 // NUM_SAMPLES for at in range(NUM_SAMPLES)})
    assert all(len(one) == 12 for one in task.samples.values())


def test_options_reach_the_head() -> None:
    task = build("eval.score_threshold=0.3", "eval.max_detections=7", "eval.nms_iou=0.4", head=HeadClasses(12, None))
    model = Fixed(12)
    task.predict(model, first_batch(task))
    assert model.seen[0][2] == DetectOptions(0.3, 0.4, 7)


def test_several_scales_and_the_mirror_are_one_answer_in_pixels_of_the_file() -> None:
    task = build("eval.scales=[32,64]", "eval.flip=true", head=HeadClasses(12, None))
    model = Fixed(12)
    batch = first_batch(task)
    (found, *_) = task.predict(model, batch)
    each_image = 4
    assert [shape[-1] for shape, *_ in model.seen[:each_image]] == [32, 32, 64, 64]
    assert all(originals == [batch.original_sizes[0]] for *_, originals in model.seen[:each_image])
    assert len(found) == 24, "every box twice: as it was, and mirrored; those of both scales are the same"
    assert bool((found.scores[:-1] >= found.scores[1:]).all())


def test_detr_refuses_what_it_cannot_merge() -> None:
    with pytest.raises(UsageError, match="no NMS"):
        build("eval.flip=true", recipe="coco_detr_50e", head=HeadClasses(12, None))


def random_detections(seed: int, number: int = 12) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 15, (number, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 10, (number, 2))], 1).astype(np.float32)
    scores = -np.sort(-rng.random(number).astype(np.float32))
    masks = [coco_mask.encode(np.asfortranarray(rng.integers(0, 2, SIZE, np.uint8))) for _ in range(number)]
    labels = torch.tensor(rng.integers(0, 3, number))
    return Detections(torch.tensor(boxes), torch.tensor(scores), labels, masks)


def assert_same(one: Detections, other: Detections) -> None:
    for key in ("scores", "labels"):
        assert torch.equal(getattr(one, key), getattr(other, key))
    torch.testing.assert_close(one.boxes, other.boxes)
    assert one.masks == other.masks


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_twice_is_as_before(seed: int) -> None:
    found = random_detections(seed)
    once = mirrored(found, SIZE)
    assert bool((once.boxes[:, 2] > once.boxes[:, 0]).all())
    assert_same(mirrored(once, SIZE), found)


def test_a_mirrored_box_lies_over_its_mirrored_mask() -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[3:8, 2:10] = 1
    found = Detections(
        torch.tensor([[2.0, 3.0, 10.0, 8.0]]),
        torch.ones(1),
        torch.zeros(1, dtype=torch.int64),
        [coco_mask.encode(np.asfortranarray(mask))],
    )
    turned = mirrored(found, SIZE)
    assert turned.masks is not None
    assert turned.boxes.tolist() == [[20.0, 3.0, 28.0, 8.0]]
    assert coco_mask.toBbox(turned.masks[0]).tolist() == [20.0, 3.0, 8.0, 5.0]


@pytest.mark.parametrize("seed", range(3))
def test_a_view_merged_with_itself_loses_its_duplicates_alone(seed: int) -> None:
    options = DetectOptions(nms_iou=0.99)
    once = merge_views([random_detections(seed)], options)
    assert_same(once, random_detections(seed))
    assert_same(merge_views([once, once], options), once)


def test_merging_keeps_the_best_and_as_many_as_asked() -> None:
    weak, strong = random_detections(0), random_detections(1)
    weak.scores = weak.scores * 0.1
    merged = merge_views([weak, strong], DetectOptions(nms_iou=1.0, max_detections=5))
    assert torch.equal(merged.scores, strong.scores[:5])
    assert merged.masks == (strong.masks or [])[:5]
    assert len(merge_views([weak, strong], DetectOptions(nms_iou=1.0))) == 24


def test_no_detections_merge_to_none() -> None:
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), [])
    merged = merge_views([none, none], DetectOptions())
    assert len(merged) == 0
    assert merged.masks == []


def test_an_image_that_cannot_be_read_is_skipped_at_several_scales_too(tmp_path: Path) -> None:
    """As at one scale: nothing is asked of it."""
    import json

    from PIL import Image

    images = [{"id": at, "file_name": f"{at}.png", "height": 64, "width": 64} for at in range(3)]
    for at in (0, 2):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{at}.png")
    objects = [{"id": 1, "image_id": 0, "category_id": 4, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 4, "name": "ball"}]}
    (tmp_path / "val.json").write_text(json.dumps(truth))
    task = build(
        "data.name=coco",
        "data.val_samples=null",
        f"data.val_images={tmp_path}",
        f"data.val_annotations={tmp_path / 'val.json'}",
        "eval.scales=[32,64]",
        head=HeadClasses(1, ["ball"]),
    )
    model = Fixed(1)
    metric = task.metric()
    for batch in task.val_loader(rank=0, world_size=1):
        metric.update(task.predict(model, batch), batch)
    assert list(task.skipped) == ["val/1.png"]
    assert metric.compute()["images"] == 2
