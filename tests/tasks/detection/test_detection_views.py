"""Pictures of detections: written for ordinary and odd cases, labels readable at any size, inputs left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from pvtctl.models.structures import Detections, Objects
from pvtctl.tasks.detection.charts import (
    draw_class_ap,
    draw_detection_confusion,
    draw_error_kinds,
    draw_precision_recall,
)
from pvtctl.tasks.detection.metric import DetectionMetric
from pvtctl.tasks.detection.pictures import PALETTE, colour_of, draw_detections, draw_side_by_side
from pvtctl.tasks.detection.scoring.analysis import DetectionAnalysis
from pvtctl.tasks.detection.scoring.columns import Columns
from pvtctl.views.sheet import draw_sheet


def detections(boxes: list[list[float]], labels: list[int], size: tuple[int, int] | None = None) -> Detections:
    masks = None
    if size:
        masks = [dict(rle.encode(np.asfortranarray(np.ones(size, np.uint8)))) for _ in boxes]
    scores = torch.linspace(0.9, 0.4, len(boxes))
    return Detections(torch.tensor(boxes).reshape(-1, 4), scores, torch.tensor(labels, dtype=torch.int64), masks)


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (480, 640), (3, 900)])
@pytest.mark.parametrize("masks", [False, True])
def test_detections_on_any_size(size: tuple[int, int], masks: bool) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    before = image.copy()
    found = detections([[-5, -5, 1e4, 1e4], [3, 3, 3, 3]], [0, 9], size if masks else None)
    drawn = draw_detections(image, found, [f"class {at} $x$ 猫" for at in range(10)])
    assert (image == before).all()
    assert drawn.dtype == np.uint8
    scale = drawn.shape[0] // size[0]
    assert drawn.shape == (size[0] * scale, size[1] * scale, 3)
    assert max(drawn.shape) >= 400
    assert (drawn == PALETTE[0]).all(axis=-1).any()


def test_nothing_found_leaves_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (500, 500, 3)).astype(np.uint8)
    assert (draw_detections(image, detections([], []), ["a"]) == image).all()


def test_a_class_keeps_its_colour() -> None:
    assert colour_of(3) == colour_of(3 + len(PALETTE)) != colour_of(4)


@pytest.mark.parametrize("count", [0, 2])
def test_side_by_side_and_sheet(tmp_path: Path, count: int) -> None:
    image = np.zeros((400, 500, 3), np.uint8)
    boxes = [[10.0, 10, 100, 100], [200, 200, 300, 300]][:count]
    truth = Objects(torch.tensor(boxes).reshape(-1, 4), torch.tensor([0, 1][:count], dtype=torch.int64))
    found = detections([[12.0, 12, 100, 100], [200, 200, 300, 300]], [0, 0])
    drawn = draw_side_by_side(image, truth, found, ["a", "b"], threshold=0.3)
    assert drawn.shape[1] == 2 * 500 + 6
    assert (drawn[:, 506:] == PALETTE[5]).all(axis=-1).any(), "a wrong one is red"
    assert (drawn[:, 506:] == PALETTE[4]).all(axis=-1).any() == bool(count), "a right one is light blue"
    path = draw_sheet(tmp_path / "sheet.png", {f"image {at}": drawn for at in range(3 * count)}, width=320)
    with Image.open(path) as picture:
        assert picture.size[0] == (670 if count else 340)
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]


def analysis(classes: int, found: int) -> DetectionAnalysis:
    truth = {
        "images": [{"id": 1, "height": 99, "width": 99}],
        "categories": [{"id": at, "name": f"class_{at}$"} for at in range(1, classes + 1)],
        "annotations": [
            {"id": at, "image_id": 1, "category_id": at, "bbox": [at, 0, 20, 20], "area": 400, "iscrowd": 0}
            for at in range(1, classes + 1)
        ],
    }
    metric = DetectionMetric(
        [f"class_{at}$" for at in range(1, classes + 1)], list(range(1, classes + 1)), truth, masks=False
    )
    at = np.arange(found)
    boxes = np.stack([at + 1.0, 0 * at, 0 * at + 20, 0 * at + 20], 1)
    metric.add(Columns(np.ones(found, np.int64), (at // 2).astype(np.int32), 1 - at / 100, boxes))
    return metric.analysis()


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "found"), [(1, 0), (3, 3), (60, 50)])
def test_charts(tmp_path: Path, classes: int, found: int) -> None:
    result = analysis(classes, found)
    for draw in (draw_precision_recall, draw_detection_confusion, draw_error_kinds, draw_class_ap):
        with Image.open(draw(tmp_path / f"{draw.__name__}.png", result)) as picture:
            assert min(picture.size) > 200
