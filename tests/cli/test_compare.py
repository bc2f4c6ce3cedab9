"""`pvtctl compare`: its two forms, its outputs and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run import Cli

from pvtctl.latency.measure import Case


def test_one_run_is_a_table_of_one(cli: Cli, smoke_run: Path) -> None:
    result = cli("compare", smoke_run, "--no-latency")
    assert result.code == 0, result.err
    for text in ("top-1, %", "parameters, M", "costs at, px", "pvt_v2_b0", "32x32", smoke_run.name):
        assert text in result.out
    assert "*" not in result.out
    assert "convention ops" in result.err


def test_runs_as_json_and_files(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(smoke_run, again)
    info = json.loads((again / "run.json").read_text())
    info["score"]["top1"] += 0.25
    (again / "run.json").write_text(json.dumps(info))
    result = cli("compare", smoke_run, again, "--no-latency", "--json", "--out", "both")
    assert result.code == 0, result.err
    rows = {row["figure"]: row for row in result.json["rows"]}
    assert rows["top1_acc"]["best"] == [1]
    assert result.json["columns"][1]["run"] == str(again)
    files = {"compare.html", "compare.md", "compare.csv", "compare.json", "scatter.png", "scatter.svg"}
    assert {path.name for path in (tmp_path / "both").iterdir()} == files
    result = cli("compare", smoke_run, again, "--no-latency", "--out", "both")
    assert result.code == 2
    assert "both is not empty" in result.err


def test_detectors_have_ap_by_size_of_objects(cli: Cli, detector_run: Path) -> None:
    result = cli("compare", detector_run, "--no-latency", "--format", "markdown")
    assert result.code == 0, result.err
    assert "| box AP, % |" in result.out
    assert "medium objects" in result.out
    assert "| model | pvt_v2_b0@0.25 + retinanet |" in result.out


def test_models(cli: Cli) -> None:
    result = cli("compare", "--backbone", "pvt_v2_b0,resnet18", "--size", "64", "--no-latency", "--format", "csv")
    assert result.code == 0, result.err
    table = list(csv.reader(io.StringIO(result.out)))
    assert table[0] == ["figure", "label", "pvt_v2_b0", "resnet18"]
    assert float(table[1][2]) == pytest.approx(3.666760)


def test_models_are_timed(cli: Cli) -> None:
    result = cli("compare", "--backbone", "pvt_v2_b0", "--size", "32", "--seconds", "0.01", "--device", "cpu")
    assert result.code == 0, result.err
    assert "latency p90, ms" in result.out
    assert "float32" in result.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "nothing to compare", "--backbone"),
        (["RUN", "--backbone", "pvt_tiny"], "not both", "--backbone"),
        (["RUN", "RUN"], "named twice", ""),
        (["RUN", "--size", "64"], "--head and --size are not for runs", "--backbone"),
        (["RUN", "DETECTOR"], "different tasks", "one task"),
        (["nowhere"], "there is no folder nowhere", ""),
        (["."], "there is no run in .", ""),
        (["RUN", "--x", "macs"], "--x is for the plot", "--out"),
        (["RUN", "--x", "latency", "--no-latency", "--out", "new"], "nothing is timed", "one of them"),
        (["--backbone", "pvt_tiny", "--x", "latency", "--out", "new"], "upright already", "--x macs"),
        (["--backbone", "pvt_tiny,pvt_tiny"], "named twice", ""),
        (["--backbone", "pvt_tinny"], "pvt_tinny", "pvt_tiny"),
        (["--backbone", "pvt_tiny", "--head", "retina"], "retina", ""),
        (["--backbone", "pvt_tiny", "--size", "64,96"], "one size", ""),
        (["--backbone", "pvt_tiny", "--size", "cat"], "not a size", ""),
        (["--backbone", "pvt_tiny", "--device", "tpu"], "tpu", "cpu"),
        (["--budget", "5GFLOPs"], "no time, multiply-adds", "half as many"),
        (["--budget", "30"], "no time, multiply-adds", "30ms"),
        (["RUN", "--budget", "30ms", "--backbone", "pvt_tiny"], "not for runs", ""),
        (["--budget", "30ms", "--head", "retina"], "retina", "retinanet"),
        (["--budget", "30ms", "--x", "macs", "--out", "new"], "--x is not for --budget", ""),
        (["--budget", "30ms", "--no-latency"], "--no-latency is not for --budget", "leave it out"),
    ],
)  # fmt: skip
def test_bad_input(
    cli: Cli, smoke_run: Path, detector_run: Path, arguments: list[str], message: str, hint: str
) -> None:
    folders = {"RUN": str(smoke_run), "DETECTOR": str(detector_run)}
    result = cli("compare", *(folders.get(argument, argument) for argument in arguments))
    assert result.code == 2
    assert message in result.err
    assert hint in result.err
    assert "Traceback" not in result.err
    assert not result.out


def test_a_run_that_cannot_be_timed_is_not_within_a_time(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(groups: list[list[Case]], **options: Any) -> tuple[dict[Any, Any], dict[Case, str], dict[str, Any]]:
        return {}, {case: "out of memory" for group in groups for case in group}, {}

    monkeypatch.setattr("pvtctl.studies.compare.time_cases", fail)
    result = cli("compare", smoke_run, "--budget", "30ms", "--json")
    assert result.code == 0
    assert result.json["rows"] == result.json["over"] == []
    assert f"{smoke_run.name} is left out: what is limited could not be measured" in result.json["notes"]
    assert any("out of memory" in note for note in result.json["notes"])


def test_many_runs_are_printed_in_blocks(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    runs = [tmp_path / f"a_run_with_a_long_name_{at}" for at in range(4)]
    for run in runs:
        shutil.copytree(smoke_run, run)
    result = cli("compare", *runs, "--no-latency")
    assert result.out.count("costs at, px") == 2
    assert max(map(len, result.out.splitlines())) <= 125


def test_a_budget_of_runs_and_of_models(cli: Cli, smoke_run: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke_run, tmp_path / "second")
    runs = cli("compare", smoke_run, tmp_path / "second", "--budget", "1GMACs", "--json")
    assert runs.code == 0, runs.err
    assert [row["source"] for row in runs.json["rows"]] == ["measured", "measured"]
    models = cli("compare", "--backbone", "pvt_v2_b0,pvt_tiny", "--budget", "1GMACs", "--format", "csv", "--out", "new")
    assert models.code == 0, models.err
    assert [line.split(",")[1] for line in models.out.splitlines()] == ["model", "pvt_v2_b0"]
    assert "over the budget: pvt_tiny at 224x224" in models.err
    assert (tmp_path / "new" / "budget.md").is_file()
