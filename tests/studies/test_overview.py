"""The list of studies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from made_up_runs import fail, finish_all

from pvtctl.studies.overview import overview
from pvtctl.studies.plan import StudyRequest, study_names


def test_every_study_is_listed_with_what_was_run(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="mini", seeds=2).plan()
    finish_all(plan, {"pvt_small": 0.3})
    fail(plan.row_runs("resnet50_gc_r4")[0], "out of memory")
    lines = {line.name: line for line in overview(tmp_path)}
    assert list(lines) == study_names()
    gcnet = lines["gcnet"]
    assert (gcnet.paper, gcnet.rows) == ("PVT v1, Table 10", 2)
    assert gcnet.states == {"mini": "2 runs finished, 1 failed"}
    assert gcnet.minutes["mini"] is None
    finish_all(plan, {"resnet50_gc_r4": 0.3})
    assert plan.about is not None
    again = {line.name: line for line in overview(tmp_path)}["gcnet"]
    assert again.minutes["mini"] == (2 * plan.about.seeds + 2) * 1.5  # rows and two pretrainings, 90 s each
    assert again.cells()[4:6] == [again.cost["mini"], again.cost["paper"]]
    assert all(len(line.cells()) == 7 for line in lines.values())
    assert lines["vit-vs-pvt"].states == {}


def test_it_loads_no_torch() -> None:
    code = "import sys; import pvtctl.studies.overview; assert not {'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_that_failed_before_it_finished_is_finished(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="mini", seeds=1).plan()
    finish_all(plan, {"pvt_small": 0.3})
    fail(plan.row_runs("pvt_small")[0], "at work elsewhere")
    line = next(line for line in overview(tmp_path) if line.name == "gcnet")
    assert line.states == {"mini": "1 run finished"}


def test_pretrainings_of_a_folder_that_was_moved_still_count(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path / "first", profile="mini", seeds=1).plan()
    finish_all(plan, {"pvt_small": 0.3, "resnet50_gc_r4": 0.2})
    before = {line.name: line.minutes for line in overview(tmp_path / "first")}
    (tmp_path / "first").rename(tmp_path / "second")
    assert {line.name: line.minutes for line in overview(tmp_path / "second")} == before
