"""The metric is exact: any split into batches and ranks gives the same numbers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtctl.tasks.classification.metric import ClassificationMetric


def labelled(labels: Tensor, ids: list[str]) -> Any:
    """The parts of a batch that the metric reads."""
    return SimpleNamespace(labels=labels, ids=ids)


def random_set(images: int, classes: int, seed: int = 0) -> tuple[Tensor, Any]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator) * 3
    labels = torch.randint(classes, (images,), generator=generator)
    return logits, labelled(labels, [f"image{at:03d}" for at in range(images)])


def names(count: int) -> list[str]:
    return [f"class{at}" for at in range(count)]


def score(logits: Tensor, batch: Any, cuts: list[int], classes: int) -> ClassificationMetric:
    """Score in pieces, each piece on a rank of its own, then merge."""
    shards = []
    for start, stop in zip([0, *cuts], [*cuts, len(logits)], strict=True):
        metric = ClassificationMetric(names(classes), worst=5)
        if stop > start:
            metric.update(logits[start:stop], labelled(batch.labels[start:stop], batch.ids[start:stop]))
        shards.append(metric)
    shards[0].merge([shard.state() for shard in shards])
    return shards[0]


@pytest.mark.parametrize("seed", range(5))
def test_any_sharding_equals_one_pass(seed: int) -> None:
    logits, batch = random_set(97, 12, seed)
    whole = score(logits, batch, [], 12)
    cuts = sorted(random.Random(seed).choices(range(98), k=4))
    merged = score(logits, batch, cuts, 12)
    assert merged.compute() == whole.compute()
    assert merged.worst() == whole.worst()
    assert merged.per_class() == whole.per_class()
    assert merged.reliability() == whole.reliability()
    assert torch.equal(merged.confusion_matrix(), whole.confusion_matrix())


def test_agrees_with_the_plain_formulas() -> None:
    logits, batch = random_set(200, 10)
    metric = score(logits, batch, [50, 90], 10)
    numbers = metric.compute()
    top5 = logits.topk(5).indices.eq(batch.labels[:, None]).any(1)
    losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    assert numbers["top1"] == (logits.argmax(1) == batch.labels).double().mean().item()
    assert numbers["top5"] == top5.double().mean().item()
    assert numbers["loss"] == pytest.approx(losses.double().mean().item(), abs=1e-6)
    assert [miss.id for miss in metric.worst()] == [batch.ids[at] for at in losses.argsort(descending=True)[:5]]
    matrix = metric.confusion_matrix()
    assert matrix.sum() == 200
    assert matrix[:, -1].sum() == 0
    assert matrix.diagonal().sum() == round(numbers["top1"] * 200)


def test_calibration_of_a_known_case() -> None:
    """Four images at confidence 0.8, of which two are right: the error is 0.3."""
    logits = torch.tensor([[0.8, 0.2]]).log().repeat(4, 1)
    metric = ClassificationMetric(names(2))
    metric.update(logits, labelled(torch.tensor([0, 0, 1, 1]), list("abcd")))
    assert metric.compute()["ece"] == pytest.approx(0.3, abs=1e-6)
    (filled,) = [row for row in metric.reliability() if row.images]
    assert (filled.low, filled.high) == (11 / 15, 12 / 15)
    assert filled.accuracy == 0.5


def test_top5_with_fewer_classes_counts_all_and_ties_are_not_hits() -> None:
    metric = ClassificationMetric(names(3))
    metric.update(torch.zeros(3, 3), labelled(torch.tensor([0, 1, 2]), list("abc")))
    assert metric.compute()["top5"] == 1.0
    assert metric.compute()["top1"] == pytest.approx(1 / 3)


def test_nonfinite_logits_are_wrong_and_said() -> None:
    metric = ClassificationMetric(names(2))
    metric.update(torch.tensor([[float("nan"), 0.0], [2.0, 0.0]]), labelled(torch.tensor([0, 0]), ["bad", "good"]))
    numbers = metric.compute()
    assert numbers["top1"] == numbers["top5"] == 0.5
    assert numbers["nonfinite"] == 1
    assert metric.worst()[0].id == "bad"
    assert all(value == value and abs(value) != float("inf") for value in numbers.values())


def test_a_larger_head_is_scored_over_all_its_classes() -> None:
    """Data classes 0, 1 are head classes 3, 1 of 5."""
    metric = ClassificationMetric(names(5), label_to_head=torch.tensor([3, 1]))
    logits = torch.tensor([[0.0, 0.0, 9.0, 5.0, 0.0], [0.0, 9.0, 0.0, 0.0, 0.0]])
    metric.update(logits, labelled(torch.tensor([0, 1]), ["a", "b"]))
    numbers = metric.compute()
    assert numbers["top1"] == 0.5
    assert numbers["top1_present"] == 1.0
    assert [row.name for row in metric.per_class()] == ["class1", "class3"]
    assert metric.confusion_matrix().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_nothing_scored_is_zero_not_a_crash() -> None:
    numbers = ClassificationMetric(names(2)).compute()
    assert numbers["top1"] == 0.0
    assert numbers["images"] == 0
