"""Several views of an image through a real detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvtctl.models.structures import Detections
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.detection.task import DetectionTask
from pvtctl.tasks.from_recipe import build_task
from pvtctl.weights.describe import HeadClasses


def detect(head: str, *overrides: str) -> list[Detections]:
    """What a detector with random weights finds in scenes that no multiple of 32 pixels holds."""
    settings: list[str | tuple[str, Any]] = [
        ("model.backbone.name", "pvt_v2_b0"),
        ("model.backbone.width", 0.25),
        ("model.head.width", 32),
        ("data.val_samples", 2),
        "data.detection.test_long_side=104",
        "eval.score_threshold=0.0",
        *overrides,
    ]
    recipe = load_recipe(f"coco_{head}_1x", "pvt_v2_b0", "smoke", settings)
    task = build_task(recipe, device="cpu", head=HeadClasses(12, None), say=lambda text: None)
    assert isinstance(task, DetectionTask)
    task.model.eval()
    with torch.no_grad():
        return [one for batch in task.val_loader(rank=0, world_size=1) for one in task.predict(task.model, batch)]


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_one_scale_of_several_is_the_plain_answer(head: str) -> None:
    plain = detect(head, "data.detection.test_short_side=83")
    merged = detect(head, "eval.scales=[83]")
    for one, other in zip(merged, plain, strict=True):
        assert len(one) == len(other) > 10
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes, other.boxes)
        torch.testing.assert_close(one.scores, other.scores)
        assert one.masks == other.masks
