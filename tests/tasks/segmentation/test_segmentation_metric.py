"""The segmentation metric against hand-worked cases and a slow, obvious computation of its own."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pvtctl.errors import UsageError
from pvtctl.tasks.segmentation.metric import TOLERANCE, SegmentationMetric, boundary_scores

Map = NDArray[np.uint8]


def scored(pairs: list[tuple[Map, Map]], classes: int, **options: int) -> SegmentationMetric:
    """The metric of (prediction, truth) pairs, a batch of two at a time."""
    metric = SegmentationMetric([f"class {at}" for at in range(classes)], **options)
    for at in range(0, len(pairs), 2):
        part = pairs[at : at + 2]
        batch = SimpleNamespace(
            targets=[torch.from_numpy(truth) for _, truth in part],
            ids=[f"{place:03d}.png" for place in range(at, at + len(part))],
        )
        metric.update([torch.from_numpy(found) for found, _ in part], batch)
    return metric


def blobs(seed: int, classes: int, size: tuple[int, int] = (33, 47)) -> tuple[Map, Map]:
    """A true map of rectangles with some unlabelled pixels, and a prediction that is off here and there."""
    draw = np.random.default_rng(seed)
    truth = np.zeros(size, np.uint8)
    for _ in range(8):
        y, x = draw.integers(0, size[0] - 4), draw.integers(0, size[1] - 4)
        truth[y : y + draw.integers(3, 15), x : x + draw.integers(3, 15)] = draw.integers(classes)
    found = np.roll(truth, tuple(draw.integers(-2, 3, 2)), (0, 1))
    found[draw.random(size) < 0.02] = draw.integers(classes)
    found[5:8, 5:12] = 255
    truth[draw.random(size) < 0.03] = 255
    truth[20:25, 30:40] = 255
    return found, truth


def fast_boundary(found: Map, truth: Map, classes: int) -> NDArray[np.float64]:
    true, mine = torch.from_numpy(truth), torch.from_numpy(found)
    return boundary_scores(true, mine, true != 255, classes).numpy()


def slow_numbers(pairs: list[tuple[Map, Map]], classes: int) -> dict[str, float]:
    """From the definitions, class by class, with sets of pixels."""
    ious, accuracies, weighted, right, labelled = [], [], 0.0, 0, 0
    for label in range(classes):
        both = either = true = 0
        for found, truth in pairs:
            there = truth != 255
            both += int(((found == label) & (truth == label)).sum())
            either += int((((found == label) | (truth == label)) & there).sum())
            true += int((truth == label).sum())
        right, labelled = right + both, labelled + true
        if either:
            ious.append(both / either)
        if true:
            accuracies.append(both / true)
            weighted += true * both / either
    return {
        "miou": sum(ious) / len(ious),
        "mean_acc": sum(accuracies) / len(accuracies),
        "pixel_acc": right / labelled,
        "fw_iou": weighted / labelled,
        "pixels": labelled,
        "images": len(pairs),
    }


def slow_boundary(found: Map, truth: Map, classes: int) -> list[float]:
    """F of each class: every pixel's neighbours and every pair of pixels looked at."""
    height, width = truth.shape
    far = TOLERANCE * math.hypot(height, width)

    def outline(labels: Map, label: int) -> list[tuple[int, int]]:
        pixels = []
        for y, x in np.argwhere((labels == label) & (truth != 255)).tolist():
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            inside = [(v, u) for v, u in beside if 0 <= v < height and 0 <= u < width and truth[v, u] != 255]
            if any(labels[v, u] != label for v, u in inside):
                pixels.append((y, x))
        return pixels

    def near(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        return sum(any(math.dist(one, other) <= far for other in others) for one in some) / max(len(some), 1)

    scores = []
    for label in range(classes):
        true, mine = outline(truth, label), outline(found, label)
        precision, recall = near(mine, true), near(true, mine)
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores.append(f if true or mine else math.nan)
    return scores


def test_a_case_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    found = np.array([[0, 1, 1, 255], [0, 0, 1, 0]], np.uint8)
    metric = scored([(found, truth)], 3)
    assert metric.confusion.tolist() == [[3, 1, 0, 0], [0, 2, 0, 1], [0, 0, 0, 0]]
    numbers = metric.compute()
    assert numbers["miou"] == pytest.approx((3 / 4 + 2 / 4) / 2), "class 2 occurs nowhere and is left out"
    assert numbers["pixel_acc"] == pytest.approx(5 / 7)
    assert numbers["mean_acc"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert numbers["fw_iou"] == pytest.approx((4 * 3 / 4 + 3 * 2 / 4) / 7)
    assert (numbers["images"], numbers["pixels"]) == (1, 7)
    first, second, third = metric.classes()
    assert (first.pixels, first.predicted, first.iou, first.accuracy, first.precision) == (4, 3, 0.75, 0.75, 1.0)
    assert (second.pixels, second.predicted, second.precision) == (3, 3, pytest.approx(2 / 3))
    assert (third.pixels, third.predicted) == (0, 0)
    assert all(math.isnan(value) for value in (third.iou, third.accuracy, third.precision, third.boundary_f))


def test_a_class_that_is_only_predicted_counts_as_mmsegmentation_counts_it() -> None:
    truth, found = np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8)
    numbers = scored([(found, truth)], 2).compute()
    assert numbers["miou"] == pytest.approx((3 / 4 + 0) / 2), "an IoU of 0 over a union of one pixel"
    assert numbers["mean_acc"] == pytest.approx(3 / 4), "no accuracy without a true pixel"


@pytest.mark.parametrize("classes", [2, 5, 21])
def test_agrees_with_the_definitions(classes: int) -> None:
    pairs = [blobs(seed, classes) for seed in range(5)]
    numbers = scored(pairs, classes).compute()
    for name, expected in slow_numbers(pairs, classes).items():
        assert numbers[name] == pytest.approx(expected), name
    each = np.array([slow_boundary(found, truth, classes) for found, truth in pairs])
    there = np.isfinite(each)
    means = np.where(there, each, 0).sum(0)[there.any(0)] / there.sum(0)[there.any(0)]
    assert numbers["boundary_f"] == pytest.approx(means.mean(), abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 700), (90, 200), (250, 3), (400, 1)])
def test_boundaries_of_any_size(size: tuple[int, int]) -> None:
    """Tolerances from 0 to 5 pixels, and images that are narrower than the tolerance."""
    draw = np.random.default_rng(size[1])
    truth = np.repeat(draw.integers(0, 3, (1, size[1])), size[0], axis=0).astype(np.uint8)
    found = np.where(draw.random(size) < 0.02, 1, truth).astype(np.uint8)
    if max(size) > 150:
        truth[:, 10:-10] = found[:, 10:-10] = 0
        truth[:, 30:40] = found[:, 34:45] = 1
    expected = slow_boundary(found, truth, 3)
    np.testing.assert_allclose(fast_boundary(found, truth, 3), expected, atol=1e-12)


def test_boundaries_by_hand() -> None:
    truth = np.zeros((300, 400), np.uint8)
    truth[:, 200:] = 1
    for shift, expected in ((0, 1.0), (3, 1.0), (4, 0.0)):
        # 0.75 % of the diagonal of 500 are 3.75 pixels
        found = np.zeros_like(truth)
        found[:, 200 + shift :] = 1
        np.testing.assert_array_equal(fast_boundary(found, truth, 2), [expected, expected])
    nothing = np.zeros_like(truth)
    np.testing.assert_array_equal(fast_boundary(nothing, truth, 3), [0, 0, np.nan])
    assert np.isnan(fast_boundary(nothing, nothing, 2)).all()


def test_many_classes_are_dilated_in_groups() -> None:
    truth = np.repeat(np.arange(150, dtype=np.uint8)[None], 30, 0)
    assert (fast_boundary(truth, truth, 150) == 1).all()
    scores = fast_boundary(np.roll(truth, 75, 1), truth, 150)
    assert (scores == 0).all()


def test_unlabelled_regions_are_no_outlines() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[:, 8:12] = 255
    found = truth.copy()
    found[:, 8:12] = 1
    assert np.isnan(fast_boundary(found, truth, 2)).all()


def test_several_ranks_count_as_one() -> None:
    pairs = [blobs(seed, 5) for seed in range(9)]
    whole = scored(pairs, 5, worst=3)
    parts = [SegmentationMetric(whole.class_names, worst=3) for _ in range(3)]
    for at, (found, truth) in enumerate(pairs):
        parts[at % 3].add(torch.from_numpy(found), torch.from_numpy(truth), f"{at:03d}.png")
    states = [pickle.loads(pickle.dumps(part.state())) for part in parts]
    parts[0].merge(states)
    assert parts[0].compute() == whole.compute()
    assert repr(parts[0].classes()) == repr(whole.classes())
    assert parts[0].worst() == whole.worst()
    parts[0].add(*(torch.from_numpy(labels) for labels in pairs[0]), "again.png")
    assert parts[0].images == 10


def test_the_worst_images_keep_their_maps() -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[5:] = 1
    pairs = [(truth, truth)]
    for rows in (1, 3, 2):
        found = truth.copy()
        found[:rows] = 1
        pairs.append((found, truth))
    metric = scored(pairs, 2, worst=2)
    assert [image.id for image in metric.worst()] == ["002.png", "003.png"]
    worst = metric.worst()[0]
    assert worst.pixel_acc == pytest.approx(0.7)
    assert worst.iou == pytest.approx((2 / 5 + 5 / 8) / 2)
    assert (worst.labels() == pairs[2][0]).all()
    assert not scored(pairs, 2, worst=0).worst()


def test_memory_does_not_grow_with_the_images() -> None:
    few, many = (scored([blobs(seed, 5) for seed in range(count)], 5) for count in (10, 40))
    assert len(pickle.dumps(many.state())) < 1.3 * len(pickle.dumps(few.state()))


def test_nothing_labelled_is_said_and_not_ranked() -> None:
    empty = SegmentationMetric(["a", "b"])
    assert "no image was read" in empty.why_missing("miou")
    metric = scored([(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))], 2)
    numbers = metric.compute()
    assert all(math.isnan(numbers[name]) for name in ("miou", "pixel_acc", "mean_acc", "fw_iou", "boundary_f"))
    assert (numbers["images"], numbers["pixels"], metric.unlabelled) == (1, 0, 1)
    assert "no image has a labelled pixel" in metric.why_missing("miou")
    assert not metric.worst()
    plain = scored([(np.zeros((4, 4), np.uint8),) * 2], 2)
    assert plain.compute()["miou"] == 1
    assert "no class has an outline" in plain.why_missing("boundary_f")


def test_labels_that_are_no_class_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"000\.png has the label 7, but there are 3 classes"):
        scored([(np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8))], 3)
    with pytest.raises(UsageError, match="0 classes"):
        SegmentationMetric([])


@pytest.mark.parametrize("classes", [1, 255])
def test_one_class_and_the_most_classes(classes: int) -> None:
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16) % classes
    assert scored([(truth.astype(np.uint8), truth.astype(np.uint8))], classes).compute()["miou"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_outputs_on_a_gpu_count_the_same() -> None:
    metrics = [SegmentationMetric([str(at) for at in range(21)]) for _ in range(2)]
    for seed in range(3):
        found, truth = (torch.from_numpy(labels) for labels in blobs(seed, 21))
        metrics[0].add(found, truth, f"{seed}")
        metrics[1].update([found.cuda()], SimpleNamespace(targets=[truth.cuda()], ids=[f"{seed}"]))
    assert metrics[0].compute() == metrics[1].compute()
    assert metrics[0].worst() == metrics[1].worst()
