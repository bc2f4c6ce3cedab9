"""Runs whose length is told in iterations instead of epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_task import ToyTask, save_weights, settings

from pvtctl.engine import FitResult, RunFolder, fit, single

DIST = single("cpu")


def train(folder: Path, **changes: Any) -> FitResult:
    with RunFolder.open(folder, {"name": "toy"}, resume=False, dist=DIST) as run:
        return fit(ToyTask(), settings(**changes), run, DIST, save_weights=save_weights, talk=lambda text: None)


def rates(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["event"] == "train"]


@pytest.mark.parametrize(
    ("changes", "world_size", "epochs", "steps"),
    [
        ({}, 1, 3, 36),
        ({"max_steps": 10}, 1, 3, 10),
        ({"iterations": 30}, 1, 2.5, 30),
        ({"iterations": 30, "max_steps": 7}, 1, 2.5, 7),
        ({"iterations": 30, "total_batch": 8}, 1, 5, 60),
        ({"iterations": 30, "batch_size": 8}, 1, 1.25, 15),
        ({"iterations": 30, "batch_size": 2, "accumulate": 2}, 1, 2.5, 30),
        ({"iterations": 30}, 4, 8 / 12, 8),
        ({"iterations": 1, "batch_size": 64}, 1, 1 / 12, 1),
    ],
)
def test_the_same_images_are_seen_whatever_the_batch(
    changes: dict[str, Any], world_size: int, epochs: float, steps: int
) -> None:
    found = settings(**changes).span(12, world_size)
    assert found == pytest.approx((epochs, steps))


def test_the_rate_ends_with_the_iterations(tmp_path: Path) -> None:
    schedule = {"name": "poly", "min_lr": 1e-5, "power": 0.9, "warmup_epochs": 0}
    common: dict[str, Any] = {"schedule": schedule, "log_every": 1, "optimizer": {"lr": 1e-2, "lr_scaling": "none"}}
    result = train(tmp_path / "run", iterations=17, **common)
    assert (result.steps, result.epochs) == (17, 2)
    told = rates(tmp_path / "run")
    assert told == pytest.approx([(1e-2 - 1e-5) * (1 - step / 17) ** 0.9 + 1e-5 for step in range(17)])
    cut = train(tmp_path / "cut", iterations=17, max_steps=5, **common)
    assert cut.steps == 5
    assert rates(tmp_path / "cut") == told[:5], "schedules still span all of them"
