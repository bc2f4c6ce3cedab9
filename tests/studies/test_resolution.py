"""What a depth model loses at more pixels, measured after training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_runs import finish_all

import pvtctl.runs.evaluate
from pvtctl.errors import UsageError
from pvtctl.studies.plan import StudyRequest
from pvtctl.studies.resolution import FIGURE, larger, with_resolution_loss
from pvtctl.studies.results import collect_results


def test_five_thirds_of_the_size() -> None:
    assert larger((384, 384), 32) == (640, 640)
    assert larger((96, 96), 32) == (160, 160)


def test_every_finished_run_is_tested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def evaluate(run: Path, **options: Any) -> SimpleNamespace:
        asked.append(options["overrides"])
        if "vit_hybrid" in str(run):
            raise UsageError("no weights")
        return SimpleNamespace(numbers={"abs_rel": 0.25})

    monkeypatch.setattr(pvtctl.runs.evaluate, "evaluate_run", evaluate)
    plan = StudyRequest("dpt-resolution", tmp_path, profile="smoke", rows=["resnet50", "vit_hybrid"]).plan()
    finish_all(plan, {"resnet50": 0.2, "vit_hybrid": 0.2})
    said: list[str] = []
    rows = {
        row.row: row for row in with_resolution_loss(collect_results(plan), plan.out, device="cpu", say=said.append)
    }
    loss = rows["resnet50"].spread(FIGURE)
    assert loss is not None
    assert loss.mean == pytest.approx(25.0)
    assert rows["vit_hybrid"].spread(FIGURE) is None
    assert "vit_hybrid/seed0 could not be tested at more pixels: no weights" in said
    assert asked[0] == [("data.depth.test_size", [96, 96])]
    with_resolution_loss(collect_results(plan), plan.out, device="cpu", say=said.append)
    assert len(asked) == 3  # the failed one is tried again
