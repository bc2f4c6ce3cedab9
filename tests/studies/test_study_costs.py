"""Costs: counted at the paper's size, timed once and with care."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import finish_all

from pvtctl.cost.build import build_own
from pvtctl.errors import PvtctlError
from pvtctl.latency.measure import Case, Latency
from pvtctl.models.layers.shapes import without_values
from pvtctl.recipe.load import load_recipe, rows_of
from pvtctl.studies import cases, costs
from pvtctl.studies.costs import study_costs
from pvtctl.studies.plan import StudyRequest
from pvtctl.studies.results import RowResult, collect_results


def row_of(recipe: str, row: str) -> RowResult:
    loaded = load_recipe(recipe, row)
    return RowResult(row, loaded.title or row, loaded.expect, loaded)


B0, B1 = row_of("imagenet_pvt_v2", "pvt_v2_b0"), row_of("imagenet_pvt_v2", "pvt_v2_b1")


class FakeLatency:
    """Stands for `measure_latency`: what was asked for, and cases that fail."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[list[str]] = []
        self.failing = failing

    def __call__(self, cases: Sequence[Case], **options: Any) -> tuple[list[Latency], dict[str, Any]]:
        self.asked.append([case.backbone for case in cases])
        if self.failing in [case.backbone for case in cases]:
            raise PvtctlError(f"out of memory: {self.failing}")
        found = [Latency(case, 5, 10.0, 12.0, 10.5, 9.0, 30.0, 100.0, 2**30, 0.02) for case in cases]
        return found, {}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLatency:
    fake = FakeLatency()
    monkeypatch.setattr(cases, "measure_latency", fake)
    monkeypatch.setattr(costs, "_macs_per_second", lambda device: 1e11)
    return fake


def test_times_are_measured_in_turns_and_only_once(tmp_path: Path, fake: FakeLatency) -> None:
    first = study_costs([B0, B1], tmp_path)
    assert fake.asked == [["pvt_v2_b0", "pvt_v2_b1"]]
    assert first["pvt_v2_b0"].value("latency_ms") == 10.0
    assert first["pvt_v2_b0"].value("inference_memory_gib") == 1.0
    assert first["pvt_v2_b1"].params_m == pytest.approx(14.009, abs=1e-3)
    assert first["pvt_v2_b1"].gmacs == pytest.approx(2.119, abs=1e-3)
    assert study_costs([B0, B1], tmp_path) == first
    assert len(fake.asked) == 1


def test_models_that_differ_under_the_backbone_have_times_of_their_own(tmp_path: Path, fake: FakeLatency) -> None:
    rows = [row_of("ade20k_trans2seg", name) for name in ("deeplabv3plus_d8", "deeplabv3plus_d16")]
    study_costs(rows[:1], tmp_path)
    study_costs(rows, tmp_path)
    assert fake.asked == [["resnet50s"]] * 2


def test_times_of_another_machine_do_not_count(tmp_path: Path, fake: FakeLatency) -> None:
    study_costs([B0], tmp_path)
    file = tmp_path / "costs.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"where": kept["where"] | {"cpu": "an abacus"}}))
    study_costs([B0], tmp_path)
    assert len(fake.asked) == 2
    file.write_text("{")
    study_costs([B0], tmp_path)
    assert len(fake.asked) == 3


def test_one_that_fails_spoils_no_other(tmp_path: Path, fake: FakeLatency) -> None:
    fake.failing = "pvt_v2_b1"
    found = study_costs([B0, B1], tmp_path)
    assert found["pvt_v2_b0"].timing is not None
    assert found["pvt_v2_b1"].timing is None
    assert found["pvt_v2_b1"].untimed == "not timed: out of memory: pvt_v2_b1"


def test_what_would_take_too_long_or_too_much_is_not_run(
    tmp_path: Path, fake: FakeLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "_macs_per_second", lambda device: 1e6)
    slow = study_costs([B0], tmp_path)["pvt_v2_b0"]
    assert slow.untimed == "not timed: by its operations a call would take about 24 min on this machine"
    monkeypatch.setattr(costs, "_macs_per_second", lambda device: 1e11)
    monkeypatch.setattr(costs, "_free_bytes", lambda device: 2**28)
    assert "GiB are available" in study_costs([B0], tmp_path)["pvt_v2_b0"].untimed
    assert fake.asked == []


def test_without_latency_nothing_is_run(tmp_path: Path, fake: FakeLatency) -> None:
    assert study_costs([B0], tmp_path, latency=False)["pvt_v2_b0"].untimed == "not measured"
    assert fake.asked == []
    assert not (tmp_path / "costs.json").exists()


def test_memory_of_training_is_that_of_the_warning() -> None:
    """docs/cost.md: RetinaNet at 800x1344, two images: 1.8 GiB. Weights that products see through a view count once."""
    found = costs._counted(row_of("vit_vs_pvt", "vit_small_patch32"), load_recipe("vit_vs_pvt", "vit_small_patch32"))
    assert (found.train_images, found.train_size) == (2, (800, 1344))
    assert found.train_memory_gib == pytest.approx(1.79, abs=0.05)
    assert found.params_m == pytest.approx(60.8, abs=0.05)


def test_the_trained_model_is_told_apart_from_the_papers(tmp_path: Path) -> None:
    plan = StudyRequest(
        "vit-vs-pvt", tmp_path, profile="smoke", rows=["pvt_small"], overrides=["model.backbone.width=0.25"]
    ).plan()
    finish_all(plan, {"pvt_small": 0.2})
    row = next(row for row in collect_results(plan) if row.row == "pvt_small")
    cost = study_costs([row], tmp_path, latency=False)["pvt_small"]
    assert cost.params_m == pytest.approx(34.2, abs=0.05)
    assert cost.trained == "pvt_small@0.25"
    assert cost.trained_params_m is not None
    assert cost.trained_params_m < 15
    assert cost.trained_size == (64, 64)


def test_parameters_of_the_classifier_where_the_table_prints_those() -> None:
    recipe = load_recipe("deeper_vs_wider", "pvt_medium")
    assert costs._counted(row_of("deeper_vs_wider", "pvt_medium"), recipe).params_m == pytest.approx(44.2, abs=0.05)


@pytest.mark.parametrize(
    ("study", "differ"), [("dpt_skip_layers", 5), ("dpt_readout", 3), ("pretrained_vs_scratch", 2)]
)
def test_models_that_read_otherwise_are_timed_each_by_itself(
    study: str, differ: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Case] = []

    def measure(cases: Sequence[Case], **options: Any) -> tuple[list[Latency], dict[str, Any]]:
        asked.extend(cases)
        return FakeLatency()(cases)

    monkeypatch.setattr(cases, "measure_latency", measure)
    monkeypatch.setattr(costs, "_macs_per_second", lambda device: 1e11)
    monkeypatch.setattr(costs, "_free_bytes", lambda device: 2**40)
    found = study_costs([row_of(study, row) for row in rows_of(study)], tmp_path)
    assert len(set(asked)) == differ
    with without_values():
        own = [build_own(case.backbone, case.head, case.num_classes, case.options) for case in asked if case.options]
    assert {sum(p.numel() for p in model.parameters()) / 1e6 for model in own} <= {c.params_m for c in found.values()}
