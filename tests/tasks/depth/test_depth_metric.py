"""The depth metric: hand-worked numbers, and the official evaluations written out plainly in numpy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.tasks.depth.errors import crop_box, least_squares, whdr
from pvtctl.tasks.depth.metric import DISTANCES, NUMBERS, DepthMetric


def batch_of(*targets: Tensor, first: int = 0) -> Any:
    numbers = range(first, first + len(targets))
    ids = [f"{at}.png" for at in numbers]
    return SimpleNamespace(targets=list(targets), ids=ids, indices=torch.tensor(list(numbers)))


def score(prediction: Any, truth: Any, **options: Any) -> dict[str, float]:
    metric = DepthMetric(**{"space": "metres", "alignment": "none"} | options)
    metric.update([torch.as_tensor(prediction, dtype=torch.float32)], batch_of(torch.as_tensor(truth).float()))
    return metric.compute()


def official(
    prediction: np.ndarray, truth: np.ndarray, low: float, high: float, crop: tuple[slice, slice]
) -> dict[str, float]:
    """One image as the public evaluations of KITTI's Eigen split and NYUv2 score it."""
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    prediction = np.where(prediction < low, low, prediction)
    prediction = np.where(prediction > high, high, prediction)
    inside = np.zeros(truth.shape, bool)
    inside[crop] = True
    valid = (truth > low) & (truth < high) & inside
    p, t = prediction[valid], truth[valid]
    worse = np.maximum(p / t, t / p)
    log = np.log(p) - np.log(t)
    return {
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(t))),
        "silog": 100 * np.sqrt(np.mean(log**2) - np.mean(log) ** 2),
        "delta1": np.mean(worse < 1.25),
        "delta2": np.mean(worse < 1.25**2),
        "delta3": np.mean(worse < 1.25**3),
        "pixels": float(valid.sum()),
    }


def scene(height: int, width: int, deepest: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a sparse truth that reaches beyond the limits on both sides."""
    random = np.random.default_rng(seed)
    truth = random.uniform(0.0005, 1.3 * deepest, (height, width)).astype(np.float32)
    prediction = truth * random.lognormal(0.1, 0.35, truth.shape).astype(np.float32) - 0.2
    truth[random.random(truth.shape) < 0.4] = 0
    return prediction, truth


def test_numbers_by_hand() -> None:
    # ratios 1.5, 1, 2 (half), and a pixel without truth
    numbers = score([[3.0, 4.0], [1.0, 7.0]], [[2.0, 4.0], [2.0, 0.0]])
    logs = [math.log(1.5), 0.0, -math.log(2)]
    mean = sum(logs) / 3
    wanted = {
        "abs_rel": (0.5 + 0 + 0.5) / 3,
        "sq_rel": (0.5 + 0 + 0.5) / 3,
        "rmse": math.sqrt(2 / 3),
        "rmse_log": math.sqrt(sum(x * x for x in logs) / 3),
        "log10": (math.log10(1.5) + math.log10(2)) / 3,
        "silog": 100 * math.sqrt(sum((x - mean) ** 2 for x in logs) / 3),
        "delta1": 1 / 3,
        "delta2": 2 / 3,
        "delta3": 2 / 3,
        "images": 1.0,
        "pixels": 3.0,
    }
    assert numbers == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("size", "high", "crop", "inside"),
    [
        ((480, 640), 10.0, "eigen", (slice(45, 471), slice(41, 601))),
        ((375, 1242), 80.0, "garg", (slice(153, 371), slice(44, 1197))),
        ((60, 80), 10.0, "none", (slice(None), slice(None))),
    ],
)
def test_equals_the_official_evaluations(
    size: tuple[int, int], high: float, crop: str, inside: tuple[slice, slice]
) -> None:
    metric = DepthMetric(space="metres", alignment="none", min_depth=1e-3, max_depth=high, crop=crop)  # type: ignore[arg-type]
    wanted = []
    for at in range(3):
        prediction, truth = scene(*size, high, at)
        metric.update([torch.from_numpy(prediction)], batch_of(torch.from_numpy(truth), first=at))
        wanted.append(official(prediction, truth, 1e-3, high, inside))
    numbers = metric.compute()
    for name in NUMBERS:
        assert numbers[name] == pytest.approx(np.mean([each[name] for each in wanted]), rel=2e-6)
    assert numbers["pixels"] == sum(each["pixels"] for each in wanted)


def test_inverse_depth_is_aligned_and_capped_as_midas_does() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(1, 20, (40, 50))
    inverse = 7 / truth + 3 + random.normal(0, 1.2, truth.shape)
    valid = (truth > 1e-3) & (truth < 10)
    design = np.stack([inverse[valid], np.ones(valid.sum())], 1)
    scale, shift = np.linalg.lstsq(design, 1 / truth[valid], rcond=None)[0]
    aligned = np.maximum(scale * inverse + shift, 1 / 10)
    assert (aligned == 0.1).any()
    wanted = official(1 / aligned, truth, 1e-3, 10, (slice(None), slice(None)))
    numbers = score(inverse, truth, space="inverse", alignment="scale_shift", max_depth=10.0)
    for name in NUMBERS:
        assert numbers[name] == pytest.approx(wanted[name], rel=1e-4)


@pytest.mark.parametrize("space", ["metres", "inverse"])
@pytest.mark.parametrize("alignment", ["median", "scale_shift"])
def test_alignment_undoes_what_it_says(space: str, alignment: str) -> None:
    truth = np.random.default_rng(1).uniform(1, 9, (31, 33))
    output = truth if space == "metres" else 1 / truth
    moved = 0.3 * output + (2 if alignment == "scale_shift" else 0)
    numbers = score(moved, truth, space=space, alignment=alignment)
    assert numbers["abs_rel"] < 1e-5
    assert numbers["delta1"] == 1
    assert score(0.3 * truth, truth)["delta1"] == 0


def test_median_of_an_even_number_is_numpys() -> None:
    numbers = score([[1.0, 2.0, 4.0, 10.0]], [[2.0, 2.0, 3.0, 4.0]], alignment="median")
    # medians 3 and 2.5: a factor of 5/6
    wanted = np.mean([abs(p * 5 / 6 - t) / t for p, t in ((1, 2), (2, 2), (4, 3), (10, 4))])
    assert numbers["abs_rel"] == pytest.approx(wanted, rel=1e-6)


def test_a_flat_prediction_is_the_mean_after_alignment() -> None:
    scale, shift = least_squares(torch.full((4,), 0.1).double(), torch.tensor([1.0, 2.0, 3.0, 6.0]).double())
    assert (scale.item(), shift.item()) == (0, 3)
    assert score(np.full((2, 2), 5.0), [[1.0, 3.0], [3.0, 5.0]], alignment="scale_shift")["rmse"] == pytest.approx(
        math.sqrt(2)
    )


def test_inverse_depth_without_a_cap_ends_at_the_deepest_truth() -> None:
    metric = DepthMetric(space="inverse", alignment="scale_shift")
    truth = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    metres = metric.metres(torch.tensor([[1.0, 0.5, -0.5, 0.125]]), truth)
    assert metres.max() == 8
    assert "deepest truth" in metric.describe()


def test_each_image_counts_alike() -> None:
    metric = DepthMetric(space="metres", alignment="none")
    metric.update([torch.full((10, 10), 2.0)], batch_of(torch.ones(10, 10)))
    metric.update([torch.full((1, 1), 1.0)], batch_of(torch.ones(1, 1), first=1))
    assert metric.compute()["abs_rel"] == 0.5
    assert metric.compute()["pixels"] == 101
    assert [tuple(row)[:2] for row in metric.rows().tolist()] == [(0, 100), (1, 1)]
    assert metric.worst(1)["index"].tolist() == [0]


def test_parts_merge_to_the_whole_in_any_order() -> None:
    images = [tuple(torch.from_numpy(part) for part in scene(20, 30, 10, at)) for at in range(6)]
    options: dict[str, Any] = {"space": "metres", "alignment": "none", "max_depth": 10.0}

    def of(numbers: list[int]) -> DepthMetric:
        metric = DepthMetric(**options)
        for at in numbers:
            metric.update([images[at][0]], batch_of(images[at][1], first=at))
        return metric

    whole, merged = of([0, 1, 2, 3, 4, 5]), DepthMetric(**options)
    parts = [of([5, 1]).state(), of([3]).state(), of([0, 4, 2]).state()]
    merged.merge(parts)
    assert merged.compute() == whole.compute()
    assert merged.rows().tobytes() == whole.rows().tobytes()
    np.testing.assert_array_equal(merged.distances().bias, whole.distances().bias)
    assert list(merged.worst_maps) == list(whole.worst_maps) == whole.worst(6)["index"].tolist()
    merged.update([images[0][0]], batch_of(images[0][1]))
    assert merged.compute() == whole.compute(), "an image that comes again counted twice"
    assert len(whole.state()["rows"].tobytes()) == 6 * 44


def test_images_without_truth_and_what_is_not_finite() -> None:
    metric = DepthMetric(space="metres", alignment="scale_shift", max_depth=10.0)
    assert math.isnan(metric.compute()["abs_rel"])
    metric.update([torch.ones(3, 3)], batch_of(torch.zeros(3, 3)))
    numbers = metric.compute()
    assert numbers["without_truth"] == 1
    assert numbers["images"] == 0
    truth = torch.rand(3, 3) + 1
    truth[0, 0], truth[0, 1] = math.inf, math.nan
    bad = torch.tensor([math.nan, math.inf, -math.inf]).repeat(3, 1)
    metric.update([bad], batch_of(truth, first=1))
    numbers = metric.compute()
    assert numbers["nonfinite"] == 1
    assert numbers["pixels"] == 7
    assert all(math.isfinite(value) for value in numbers.values())


def test_the_worst_maps_are_kept_and_no_more() -> None:
    metric = DepthMetric(space="inverse", alignment="median", max_depth=10.0)
    random = torch.Generator().manual_seed(0)
    for at in range(20):
        truth = torch.rand(4, 1300 if at == 3 else 6, generator=random) * 8 + 1
        noise = 1 + (5 if at == 3 else 0.1) * torch.rand(truth.shape, generator=random)
        metric.update([noise / truth], batch_of(truth, first=at))
        if at == 3:
            wanted = metric.metres(noise / truth, truth)
    maps = metric.worst_maps
    assert list(maps) == metric.worst(6)["index"].tolist()
    assert next(iter(maps)) == 3
    assert maps[3].dtype == np.float16
    np.testing.assert_allclose(maps[3], wanted[::2, ::2], rtol=1e-3)


def test_infinite_depth_is_the_farthest() -> None:
    metric = DepthMetric(space="metres", alignment="none", max_depth=10.0)
    assert metric.metres(torch.tensor([[2.0, math.inf, 4.0]]), torch.zeros(1, 3)).tolist() == [[2, 4, 4]]


def test_errors_by_distance() -> None:
    metric = DepthMetric(space="metres", alignment="none")
    metric.update([torch.tensor([[1.5, 0.5, 30.0, 1.0]])], batch_of(torch.tensor([[1.01, 1.01, 20.0, 0.0]])))
    found = metric.distances()
    near, far = np.searchsorted(DISTANCES, [1.01, 20.0]) - 1
    assert found.truth[[near, far]].tolist() == [2, 1]
    assert found.truth.sum() == found.predicted.sum() == 3
    assert found.abs_rel[near] == pytest.approx((0.49 + 0.51) / 1.01 / 2, abs=1e-5)
    assert found.bias[near] == pytest.approx(-0.01 / 1.01, abs=1e-5)
    assert found.bias[far] == pytest.approx(0.5, abs=1e-5)
    assert np.isnan(found.abs_rel[far + 1])


def test_crops() -> None:
    assert crop_box("eigen", (480, 640)) == (45, 471, 41, 601)
    assert crop_box("eigen", (240, 320)) == (22, 236, 20, 300)
    assert crop_box("garg", (375, 1242)) == (153, 371, 44, 1197)
    # The same pixels of the image, 23 rows and 13 columns of which the benchmark's crop takes away
    assert crop_box("garg", (352, 1216)) == (130, 348, 31, 1184)


def test_ordinal_pairs() -> None:
    inverse = torch.tensor([[3.0, 2.0], [2.0, 1.0]])
    pairs = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, -1], [0, 1, 1, 0, 1], [1, 1, 0, 1, -1]])
    assert whdr(inverse, pairs, "inverse") == (2, 4)
    assert whdr(1 / inverse, pairs, "metres") == (2, 4)
    with pytest.raises(UsageError, match="outside its image of 2x2"):
        whdr(inverse, np.array([[0, 0, 0, 2, 1]]), "inverse")
    outside = DepthMetric(space="inverse", alignment="scale_shift", pairs={"0.png": 2 * np.abs(pairs)})
    with pytest.raises(UsageError, match=r"0\.png: an ordinal pair is outside"):
        outside.update([inverse], batch_of(torch.zeros(2, 2)))
    metric = DepthMetric(space="inverse", alignment="scale_shift", pairs={"0.png": pairs})
    metric.update([inverse], batch_of(torch.zeros(2, 2)))
    metric.update([inverse], batch_of(torch.ones(2, 2), first=1))
    assert metric.compute()["whdr"] == 0.5
    assert "whdr" not in score([[1.0]], [[1.0]])


def test_every_sentence_says_what_was_measured() -> None:
    inverse = DepthMetric(space="inverse", alignment="scale_shift").describe()
    assert inverse.startswith("inverse depth, aligned to each image's truth by scale and shift; no crop;")
    metric = DepthMetric(space="metres", alignment="none", max_depth=80.0, crop="garg")
    assert metric.describe() == (
        "metric depth, not aligned; Garg's crop; truth and prediction from 0.001 to 80 m; only pixels with a true depth; "
        "means over images"
    )


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(UsageError, match="without an alignment"):
        DepthMetric(space="inverse", alignment="none")
    with pytest.raises(UsageError, match=r"there is no depth between 1 and 0\.5 m"):
        DepthMetric(space="metres", alignment="none", min_depth=1.0, max_depth=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("space", ["metres", "inverse"])
@pytest.mark.parametrize("alignment", ["median", "scale_shift"])
def test_outputs_on_a_gpu_score_the_same(space: str, alignment: str) -> None:
    metrics = [DepthMetric(space=space, alignment=alignment, max_depth=10.0) for _ in range(2)]  # type: ignore[arg-type]
    for at in range(3):
        prediction, truth = (torch.from_numpy(part) for part in scene(48, 64, 10, at))
        metrics[0].update([prediction], batch_of(truth, first=at))
        metrics[1].update([prediction.cuda()], batch_of(truth.cuda(), first=at))
    assert metrics[0].compute() == pytest.approx(metrics[1].compute(), rel=1e-5)
