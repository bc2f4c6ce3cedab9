"""What the runs of a study came to, from made-up run folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import fail, finish, finish_all

from pvtctl.errors import UsageError
from pvtctl.studies.plan import StudyRequest
from pvtctl.studies.results import collect_results, pretrainings, value_of


def test_a_row_has_the_mean_and_spread_of_its_seeds(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=3).plan()
    finish_all(plan, {"pvt_small": 0.20, "resnet50_gc_r4": 0.30}, steps=0.01)
    by_row = {row.row: row for row in collect_results(plan)}
    spread = by_row["pvt_small"].spread("mask_ap")
    assert spread is not None
    assert spread.n == 3
    assert spread.mean == pytest.approx(21.0)
    assert spread.deviation == pytest.approx(1.0)
    assert by_row["pvt_small"].printed("mask_ap") == 37.8
    assert by_row["pvt_small"].state == ""
    attempt = by_row["pvt_small"].attempts[0]
    assert (attempt.epochs, attempt.seconds, attempt.precision) == (4, 90.0, "fp32")
    assert attempt.images == 40 * attempt.run.recipe.train.total_batch
    assert [epoch for epoch, _ in attempt.curve("mask_ap")] == [1, 2, 3, 4]
    assert [attempt.state for attempt in pretrainings(plan)] == ["finished"] * 2


def test_what_did_not_finish_is_said_in_words(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=3).plan()
    runs = plan.row_runs("pvt_small")
    finish(runs[0], 0.2)
    fail(runs[1], "out of memory")
    finish(runs[2], 0.1, status="stopped", epochs=2)
    rows = {row.row: row for row in collect_results(plan)}
    assert rows["pvt_small"].state == "failed: out of memory; stopped at epoch 2 (2 of 3 seeds)"
    assert rows["resnet50_gc_r4"].state == "missing (3 of 3 seeds)"
    assert rows["pvt_small"].attempts[1].log.read_text() == "error: out of memory\n"
    spread = rows["pvt_small"].spread("mask_ap")
    assert spread is not None
    assert (spread.n, spread.deviation) == (1, None)
    assert rows["resnet50_gc_r4"].spread("mask_ap") is None


def test_a_damaged_run_has_failed(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=1).plan()
    finish_all(plan, {"pvt_small": 0.2, "resnet50_gc_r4": 0.2})
    (plan.row_runs("pvt_small")[0].out / "metrics.jsonl").write_text("{\n{}\n")
    row = next(row for row in collect_results(plan) if row.row == "pvt_small")
    assert row.attempts[0].status == "failed"
    assert "metrics.jsonl is damaged" in row.state


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=1).plan()
    finish_all(plan, {"pvt_small": 0.2})
    other = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=1, overrides=["train.epochs=7"]).plan()
    with pytest.raises(UsageError, match=r"train\.epochs"):
        collect_results(other)


def test_detectors_take_top1_from_their_pretraining(tmp_path: Path) -> None:
    plan = StudyRequest("deeper-vs-wider", tmp_path, profile="smoke", seeds=1).plan()
    finish_all(plan, {"pvt_medium": 0.2, "pvt_small_wide": 0.3})
    for row in collect_results(plan):
        error = row.spread("top1_err")
        assert error is not None
        assert error.mean == pytest.approx(50.0)
        assert row.attempts[0].figures["top1_acc"] == pytest.approx(50.0)


def test_rows_that_were_not_picked_and_rows_without_a_recipe_keep_the_table_whole(tmp_path: Path) -> None:
    plan = StudyRequest("coco_retinanet_1x", tmp_path, profile="smoke", rows=["pvt_tiny"]).plan()
    rows = {row.row: row for row in collect_results(plan)}
    assert set(plan.rows) | set(plan.source.printed) == set(rows)
    assert rows["pvt_small"].state == "not picked"
    assert rows["pvt_small"].printed("box_ap") == 40.4


def test_the_mean_over_three_sets_stands_for_the_deviation_on_the_data_at_hand() -> None:
    assert value_of({"abs_rel": 0.2}, "mean_rel") == 0.2
    assert value_of({"mean_rel": 0.08}, "abs_rel") == 0.08
    assert value_of({"abs_rel": 0.2}, "hrwsi_rel") is None


def test_a_pretraining_that_the_seeds_share_counts_once(tmp_path: Path) -> None:
    plan = StudyRequest("deeper-vs-wider", tmp_path, profile="smoke", seeds=3).plan()
    finish_all(plan, {"pvt_medium": 0.2, "pvt_small_wide": 0.3})
    for row in collect_results(plan):
        error, score = row.spread("top1_err"), row.spread("box_ap")
        assert error is not None
        assert score is not None
        assert (error.n, error.deviation, score.n) == (1, None, 3)


def test_weights_that_a_run_really_began_from_are_told(tmp_path: Path) -> None:
    plan = StudyRequest("deeper-vs-wider", tmp_path, profile="smoke", seeds=1).plan()
    finish_all(plan, {"pvt_medium": 0.2, "pvt_small_wide": 0.3})
    finish(plan.row_runs("pvt_medium")[0], 0.2, weights="/elsewhere/other.pth")
    other, own = (row.attempts[0] for row in collect_results(plan) if row.row in ("pvt_medium", "pvt_small_wide"))
    if other.run.row != "pvt_medium":
        other, own = own, other
    assert (other.other_weights, other.weights) == (True, "/elsewhere/other.pth")
    assert "top1_err" not in other.figures
    assert (own.other_weights, own.weights) == (False, own.run.needs)
    assert "top1_err" in own.figures


def test_an_own_file_with_the_name_of_a_shipped_one_is_read(tmp_path: Path) -> None:
    shipped = StudyRequest("gcnet", tmp_path).plan().source.path.read_text()
    own = tmp_path / "gcnet.yaml"
    own.write_text(shipped.replace("mask_ap: 37.8", "mask_ap: 11.1"))
    rows = {row.row: row for row in collect_results(StudyRequest(str(own), tmp_path, profile="smoke").plan())}
    assert rows["pvt_small"].printed("mask_ap") == 11.1
