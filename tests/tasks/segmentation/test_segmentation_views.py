"""Pictures of label maps: any size and number of classes, colours that can be told apart, files that keep their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.tasks.segmentation.charts import draw_class_iou, draw_pixel_confusion
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.segmentation.pictures import (
    PANEL,
    draw_label_comparison,
    draw_label_errors,
    draw_label_overlay,
    write_label_map,
)
from pvtctl.views.class_colours import NO_CLASS, chosen_colours, class_colours, perceived


@pytest.mark.parametrize("count", [1, 2, 11, 150, 255])
def test_chosen_colours_differ(count: int) -> None:
    colours = chosen_colours(count)
    assert len(set(colours)) == len(colours) == count
    assert colours == chosen_colours(255)[:count], "a class keeps its colour when others are added"
    assert not {(0, 0, 0), (255, 255, 255), (128, 128, 128)} & set(colours)


def test_the_first_colours_are_far_apart_for_every_eye() -> None:
    seen = perceived(np.array(chosen_colours(16), np.uint8))
    apart = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1) + 9 * np.eye(16)
    assert apart.min() > 0.07, "the least difference between large areas is about 0.02"


def test_colours_of_the_data() -> None:
    table = class_colours(2, [(1, 2, 3), (4, 5, 6)])
    assert table.shape == (256, 3)
    assert table[:2].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (table[2:] == NO_CLASS).all()
    assert class_colours(255)[254].any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 90), (40, 1), (480, 640), (100, 2000)])
def test_overlays_of_any_size(size: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 255, (*size, 3)).astype(np.uint8)
    labels = np.zeros(size, np.uint8)
    labels[: size[0] // 2] = 149
    labels[:, : size[1] // 3] = 255
    before = image.copy(), labels.copy()
    names = [f"class_{at} $x$ 猫" for at in range(150)]
    drawn = draw_label_overlay(image, labels, names, class_colours(150))
    assert drawn.dtype == np.uint8
    assert max(drawn.shape[:2]) >= 480
    compared = draw_label_comparison(image, labels, np.roll(labels, 1, 0), names, class_colours(150))
    assert compared.shape[1] == 4 * PANEL + 3 * 6
    assert (image == before[0]).all()
    assert (labels == before[1]).all()


def test_an_overlay_shows_colours_and_leaves_the_rest() -> None:
    image = np.full((480, 480, 3), 200, np.uint8)
    labels = np.full((480, 480), 255, np.uint8)
    labels[:, :240] = 1
    drawn = draw_label_overlay(image, labels, ["a", "b"], class_colours(2))
    assert (drawn[:480, 241:] == 200).all()
    expected = 200 + 0.6 * (np.array(chosen_colours(2)[1]) - 200.0)
    np.testing.assert_allclose(drawn[5, 5], expected, atol=1)


def test_errors() -> None:
    image = np.full((1, 400, 3), 100, np.uint8)
    truth, found = np.zeros((1, 400), np.uint8), np.zeros((1, 400), np.uint8)
    found[0, 100:200] = 1
    truth[0, 300:] = 255
    found[0, 300:] = 2
    drawn = draw_label_errors(image, truth, found, class_colours(3))[0]
    assert (drawn[100:200] == chosen_colours(3)[1]).all()
    assert (drawn[:100] == 185).all()
    assert set(drawn[300:, 0].tolist()) == {60, 185}, "hatched"


@pytest.mark.parametrize("classes", [2, 150])
def test_label_maps_keep_their_labels(tmp_path: Path, classes: int) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = write_label_map(tmp_path / "map.png", labels, class_colours(classes))
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert (np.array(picture) == labels).all()
        shown = np.array(picture.convert("RGB")).reshape(-1, 3)
    assert (shown == class_colours(classes)).all()
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "filled"), [(1, 0), (3, 3), (60, 50)])
def test_charts(tmp_path: Path, classes: int, filled: int) -> None:
    metric = SegmentationMetric([f"class_{at}$" for at in range(classes)])
    truth = np.repeat(np.arange(filled, dtype=np.uint8), 20).reshape(-1, 20)
    if filled:
        metric.add(torch.from_numpy(np.roll(truth, 3)), torch.from_numpy(truth), "a")
    for drawn in (
        draw_pixel_confusion(tmp_path / "confusion.png", metric.confusion, metric.class_names),
        draw_class_iou(tmp_path / "iou.png", metric.classes()),
    ):
        with Image.open(drawn) as picture:
            assert min(picture.size) > 200
