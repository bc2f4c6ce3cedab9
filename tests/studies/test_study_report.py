"""The report of a study, from made-up runs; costs are made up too."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import fail, finish_all

from pvtctl.errors import UsageError
from pvtctl.studies import report
from pvtctl.studies.costs import CaseTiming, ModelCost
from pvtctl.studies.plan import StudyPlan, StudyRequest
from pvtctl.studies.report import write_study
from pvtctl.studies.results import RowResult


@pytest.fixture(autouse=True)
def made_up_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row's model is the smallest and the fastest."""

    def costs(rows: Sequence[RowResult], out: Path, **options: Any) -> dict[str, ModelCost]:
        found = {}
        for at, row in enumerate(row for row in rows if row.recipe is not None):
            timing = CaseTiming(5, 100.0 * (at + 1), 101.0 * (at + 1), 99.0 * (at + 1), 0.5)
            cost = ModelCost((800, 1280), 30.0 + at, 200.0 + at, 5.0, 2, (800, 1344), timing)
            found[row.row] = cost if options["latency"] else ModelCost((800, 1280), 30.0, 200.0, 5.0, 2, (800, 1344))
        return found

    monkeypatch.setattr(report, "study_costs", costs)


def plan_of(study: str, out: Path, seeds: int = 2, **options: Any) -> StudyPlan:
    return StudyRequest(study, out, profile="smoke", seeds=seeds, **options).plan()


def test_every_file_is_written_and_says_the_same(tmp_path: Path) -> None:
    plan = plan_of("gcnet", tmp_path)
    finish_all(plan, {"pvt_small": 0.30, "resnet50_gc_r4": 0.20})
    result = write_study(plan, device="cpu")
    assert {"report", "table", "csv", "json", "params.svg", "params.png"} <= set(result.files)
    assert all(path.is_file() for path in result.files.values())
    assert [row[:3] for row in result.rows] == [
        ["ResNet50 + GC r4", "36.2", "20.50 ± 0.71"],
        ["PVT-Small", "37.8", "30.50 ± 0.71"],
    ]
    assert [len(row) for row in result.rows] == [len(result.columns)] * 2
    document = json.loads(result.files["json"].read_text())
    assert document == result.document
    assert document["schema"] == 1
    measured = document["rows"][1]["measured"]["mask_ap"]
    assert (measured["n"], measured["mean"]) == (2, pytest.approx(30.5))
    assert document["claims"][0]["outcome"] == "holds"
    assert [verdict[1] for verdict in result.verdicts] == [claim["outcome"] for claim in document["claims"]]
    with result.files["csv"].open() as handle:
        lines = [line for line in csv.DictReader(handle) if line["figure"] == "mask_ap"]
    assert [(line["paper"], line["n"], line["where"]) for line in lines] == [
        ("36.2", "2", "smoke"),
        ("37.8", "2", "smoke"),
    ]
    assert float(lines[1]["mean"]) == pytest.approx(30.5)
    page = result.files["report"].read_text()
    for text in (
        "30.50 ± 0.71",
        "for the model at full size",
        "data:image/svg+xml",
        "Environment",
    ):
        assert text in page
    assert "Partial" not in page
    assert "| PVT-Small |" in result.files["table"].read_text()


def test_the_table_has_a_column_here_beside_each_printed_one_in_the_papers_order(tmp_path: Path) -> None:
    plan = plan_of("gcnet", tmp_path)
    finish_all(plan, {"pvt_small": 0.30, "resnet50_gc_r4": 0.20})
    lines = write_study(plan, device="cpu").files["table"].read_text().splitlines()
    header = next(line for line in lines if line.startswith("| row | param"))
    names = [cell.strip() for cell in header.strip("|").split("|")][1:-1]
    assert names[0::2] == [name.rpartition(":")[0] + ": paper" for name in names[0::2]]
    assert [name.rpartition(":")[0] for name in names[0::2]] == [name.rpartition(":")[0] for name in names[1::2]]
    assert [name.rpartition(": ")[2] for name in names[1::2]] == ["here, full size"] * 2 + ["here, smoke"] * 3


def test_a_study_of_our_own_has_no_columns_for_a_paper(tmp_path: Path) -> None:
    plan = plan_of("sra_ratio", tmp_path)
    finish_all(plan, {"r_8_4_2_1": 0.70, "r_4_2_1_1": 0.75, "r_1_1_1_1": 0.60})
    result = write_study(plan, device="cpu")
    assert result.title == "sra-ratio at profile smoke"
    assert result.columns[:2] == ["row", "top-1, %: here, smoke"]
    assert [row[1] for row in result.rows] == ["70.50 ± 0.71", "75.50 ± 0.71", "60.50 ± 0.71"]
    text = result.files["table"].read_text()
    assert not [
        line
        for line in text.splitlines()
        if line.startswith(("|", "- here", "> The scores", "> What differs")) and "paper" in line
    ]
    assert text.splitlines()[2].startswith("Claim: Reducing")
    assert "| computed at full size: no spread |" in text


def test_no_finished_row(tmp_path: Path) -> None:
    plan = plan_of("gcnet", tmp_path)
    fail(plan.row_runs("pvt_small")[0], "out of memory")
    with pytest.raises(UsageError, match="no row of gcnet at profile smoke is finished") as caught:
        write_study(plan, device="cpu")
    assert caught.value.hint == "pvtctl ablate gcnet --profile smoke runs them"
    assert not (plan.out / "report.html").exists()


def test_a_failed_row_is_a_cell_and_partial_results_are_named_so(tmp_path: Path) -> None:
    plan = plan_of("gcnet", tmp_path)
    finish_all(plan, {"pvt_small": 0.30})
    for run in plan.row_runs("resnet50_gc_r4"):
        fail(run, "out of memory")
    result = write_study(plan, device="cpu")
    assert result.rows[0][2] == "failed: out of memory (2 of 2 seeds)"
    assert result.verdicts[0][1:] == [
        "not decided at this scale",
        "resnet50_gc_r4: failed: out of memory (2 of 2 seeds)",
    ]
    text = result.files["table"].read_text()
    assert "Partial results: 2 of 4 runs have finished." in text
    assert "seed0.log)" in text


def test_picked_rows_and_the_command_that_makes_them_again(tmp_path: Path) -> None:
    changed = ["model.backbone.width=0.5", "train.seed=3", ("train.clip_grad", 0.5)]
    before = ["train.epochs=2"]
    rows = ["resnet50", "pvt_small"]
    plan = plan_of("input-scale", tmp_path, rows=rows, overrides=changed, pretraining_overrides=before)
    finish_all(plan, {"resnet50": 0.1, "pvt_small": 0.2})
    result = write_study(plan, device="cpu", latency=False)
    command = result.document["commands"][0]
    assert command.startswith("pvtctl ablate input-scale --profile smoke --seeds 2 --rows resnet50,pvt_small --out ")
    assert command.endswith(
        "--set model.backbone.width=0.5 --set train.seed=3 --set train.clip_grad=0.5 --set-pretraining train.epochs=2"
    )
    assert "rows not picked: pvt_small_640" in result.document["warnings"][0]
    assert result.rows[1][2] == "not picked"
    by_text = {verdict[0]: verdict[1:] for verdict in result.verdicts}
    assert by_text["At scale 800 PVT-Small is 4.1 box AP ahead of ResNet50 (40.4 against 36.3)."][0] == "holds"
    assert {"tradeoff.svg", "macs.png"} <= set(result.files)


def test_curves_and_a_table_that_is_no_study(tmp_path: Path) -> None:
    plan = plan_of("pretrained-vs-scratch", tmp_path)
    finish_all(plan, {row: 0.1 + 0.02 * at for at, row in enumerate(plan.rows)})
    assert write_study(plan, device="cpu").files["curves.svg"].is_file()
    table = plan_of("coco_retinanet_1x", tmp_path, rows=["pvt_tiny"], weights={"pvt_tiny": "none.pth"}, seeds=1)
    finish_all(table, {"pvt_tiny": 0.2})
    result = write_study(table, device="cpu")
    assert result.verdicts == []
    assert "--weights pvt_tiny=none.pth" in result.document["commands"][0]
    assert "box AP" in result.columns[1]
