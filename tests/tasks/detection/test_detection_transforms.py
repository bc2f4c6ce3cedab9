from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as V2

from pvtctl.data.randomness import generator_for
from pvtctl.data.sizes import resized_size
from pvtctl.models.structures import Objects
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.transforms import (
    CROP_SHORT_SIDES,
    DetectionTransform,
    crop,
    drop_degenerate,
    flip,
    resize_masks,
)


def picture(height: int = 60, width: int = 90, boxes=((10, 20, 40, 50), (50, 5, 85, 30))) -> tuple:
    """Random pixels with rectangles as objects, whose masks fill their boxes."""
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return pixels, Objects(torch.tensor(boxes, dtype=torch.float32), torch.arange(len(boxes)), masks)


def edges(mask: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.where(mask)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize(
    ("size", "short", "long", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 900), 800, 1333, (444, 1333)),  # the long side decides
        ((800, 1333), 800, 1333, (800, 1333)),
        ((1, 5000), 800, 1333, (1, 1333)),
        ((375, 500), 640, 1333, (640, 853)),
    ],
)
def test_sizes_are_those_of_the_papers_code(size, short, long, expected):
    assert resized_size(size, short, long) == expected


@pytest.mark.parametrize("how", ["bilinear", "antialias"])
@pytest.mark.parametrize("size", [(30, 45), (120, 180), (60, 200)])
def test_resize_moves_everything_alike(size, how):
    pixels, objects = picture()
    moved, found = DetectionTransform(DetectionData(resize=how)).resize(pixels, objects, size)
    assert (moved.dtype, moved.shape) == (torch.uint8, (3, *size))
    assert type(found.boxes) is type(found.masks) is torch.Tensor
    scale = torch.tensor([size[1] / 90, size[0] / 60] * 2)
    assert torch.allclose(found.boxes, objects.boxes * scale)
    assert found.masks.dtype == torch.bool
    for mask, box in zip(found.masks, found.boxes, strict=True):
        assert (edges(mask) - box).abs().max() <= 1
    wanted = F.interpolate(pixels[None].float(), size, mode="bilinear", antialias=how == "antialias")[0]
    assert (moved.float() - wanted).abs().max() <= 1.01  # rounded twice


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_resized_as_torchvision_does(seed):
    draw = generator_for(seed)
    height, width, *size = torch.randint(1, 900, (4,), generator=draw).tolist()
    masks = torch.rand(2, height, width, generator=draw) > 0.5
    wanted = V2.resize(tv_tensors.Mask(masks), size, V2.InterpolationMode.NEAREST)
    assert torch.equal(resize_masks(masks, tuple(size)), wanted.as_subclass(torch.Tensor))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_move_as_torchvisions(seed):
    draw = generator_for(seed)
    height, width, *size = torch.randint(5, 900, (4,), generator=draw).tolist()
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    corners = torch.rand(30, 2, 2, generator=draw).sort(1).values * torch.tensor([width, height])
    objects = Objects(corners.flatten(1), torch.arange(30))
    boxes = tv_tensors.BoundingBoxes(objects.boxes, format="XYXY", canvas_size=(height, width))
    top, left = int(0.3 * height), int(0.2 * width)
    rows, columns = height // 2 + 1, width // 2 + 1
    resized = DetectionTransform(DetectionData()).resize(pixels, objects, tuple(size))[1].boxes
    assert torch.equal(resized, V2.resize(boxes, size).as_subclass(torch.Tensor))
    assert torch.equal(flip(pixels, objects)[1].boxes, V2.horizontal_flip(boxes).as_subclass(torch.Tensor))
    cropped, wanted = crop(pixels, objects, top, left, (rows, columns))[1], V2.crop(boxes, top, left, rows, columns)
    assert torch.equal(cropped.boxes, wanted[cropped.labels].as_subclass(torch.Tensor))
    assert 0 < len(cropped) < 30
    assert boxes.dtype == resized.dtype == cropped.boxes.dtype == torch.float32


def test_crop_cuts_and_drops():
    pixels, objects = picture()
    part, found = crop(pixels, objects, 15, 0, (40, 45))
    assert torch.equal(part, pixels[:, 15:55, :45])
    assert found.labels.tolist() == [0]
    assert found.boxes.tolist() == [[10, 5, 40, 35]]
    assert edges(found.masks[0]).tolist() == [10, 5, 40, 35]
    _, found = crop(pixels, objects, 0, 30, (25, 30))
    assert found.boxes.tolist() == [[0, 20, 10, 25], [20, 5, 30, 25]]
    _, found = crop(pixels, objects, 50, 40, (10, 10))
    assert (len(found), found.boxes.shape, found.masks.shape) == (0, (0, 4), (0, 10, 10))


def test_flip_twice_is_nothing():
    pixels, objects = picture()
    once, mirrored = flip(pixels, objects)
    assert mirrored.boxes.tolist() == [[50, 20, 80, 50], [5, 5, 40, 30]]
    assert edges(mirrored.masks[0]).tolist() == [50, 20, 80, 50]
    twice, back = flip(once, mirrored)
    assert torch.equal(twice, pixels)
    assert torch.equal(back.boxes, objects.boxes)
    assert torch.equal(back.masks, objects.masks)


def test_objects_below_a_pixel_are_dropped():
    boxes = torch.tensor([[1.0, 1, 1.5, 9], [1, 1, 2, 2], [3, 3, 9, 3.99]])
    assert drop_degenerate(Objects(boxes, torch.arange(3))).labels.tolist() == [1]


@pytest.mark.parametrize("masks", [True, False])
def test_an_image_without_objects_passes(masks):
    pixels, objects = picture(boxes=())
    objects = Objects(torch.zeros(0, 4), objects.labels, torch.zeros(0, 60, 90, dtype=torch.bool) if masks else None)
    transform = DetectionTransform(DetectionData(short_sides=(50,), crop=1.0, hflip=1.0))
    image, found = transform.train(pixels, objects, generator_for(0))
    assert len(found) == 0
    assert (found.masks is not None) == masks
    assert not masks or found.masks.shape == (0, *image.shape[-2:])


def test_training_depends_on_its_generator_alone():
    transform = DetectionTransform(DetectionData(short_sides=(40, 50, 60), sampling="range", long_side=120, crop=0.5))
    pixels, objects = picture()
    state = torch.get_rng_state()
    views = [transform.train(pixels, objects, generator_for(seed)) for seed in (1, 1, *range(20))]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1].boxes, views[1][1].boxes)
    assert len({view[0].shape for view in views}) > 2


def drawn(transform: DetectionTransform, count: int = 60) -> list[tuple]:
    pixels, objects = picture()
    return [transform.train(pixels, objects, generator_for(at)) for at in range(count)]


def test_short_sides_are_chosen_or_drawn_from_a_range():
    chosen = {min(image.shape[-2:]) for image, _ in drawn(DetectionTransform(DetectionData(short_sides=(32, 40, 48))))}
    assert chosen == {32, 40, 48}
    ranged = {
        min(image.shape[-2:])
        for image, _ in drawn(DetectionTransform(DetectionData(short_sides=(32, 38), sampling="range")))
    }
    assert ranged == set(range(32, 39))


def test_half_of_the_images_are_flipped():
    lefts = [found.boxes[0, 0].item() for _, found in drawn(DetectionTransform(DetectionData(short_sides=(60,))), 200)]
    assert set(lefts) == {10.0, 50.0}
    assert 80 <= lefts.count(50.0) <= 120
    assert {
        found.boxes[0, 0].item() for _, found in drawn(DetectionTransform(DetectionData(short_sides=(60,), hflip=0.0)))
    } == {10.0}


def test_the_crop_branch(monkeypatch):
    seen = []

    def spy(pixels, objects, top, left, size):
        seen.append((tuple(pixels.shape[-2:]), top, left, size))
        return crop(pixels, objects, top, left, size)

    monkeypatch.setattr("pvtctl.tasks.detection.transforms.crop", spy)
    found = drawn(DetectionTransform(DetectionData(short_sides=(60,), crop=0.5)), 60)
    assert 15 <= len(seen) <= 45
    assert {min(before) for before, *_ in seen} == set(CROP_SHORT_SIDES)
    for (height, width), top, left, (rows, columns) in seen:
        assert 384 <= rows <= min(600, height)
        assert 384 <= columns <= min(600, width)
        assert 0 <= top <= height - rows
        assert 0 <= left <= width - columns
    assert len({top for _, top, *_ in seen}) > 5
    for image, objects in found:
        assert min(image.shape[-2:]) == 60
        for mask, box in zip(objects.masks, objects.boxes, strict=True):
            assert (edges(mask) - box).abs().max() <= 1.5


def test_evaluation_resizes_within_the_test_sides():
    transform = DetectionTransform(
        DetectionData(short_sides=(480, 800), sampling="range", crop=0.5, test_short_side=640)
    )
    assert transform.evaluate(picture()[0]).shape == (3, 640, 960)
