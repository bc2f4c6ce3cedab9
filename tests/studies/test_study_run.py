"""Runs of a study: order, side by side, failures as findings, stopping and going on. The processes are stand-ins."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pvtctl.errors import ExitCode, UsageError
from pvtctl.io.stop import Stopped
from pvtctl.studies.plan import Run, StudyPlan, StudyRequest
from pvtctl.studies.run import failure_file, log_file, recipe_to_run, record_failure, run_plan, state_of

FINISHES = """
    import json, sys, time
    from pathlib import Path
    out, recipe = Path(sys.argv[1]), sys.argv[2]
    out.mkdir(parents=True)
    (out / "recipe.yaml").write_text(recipe)
    began = time.time()
    time.sleep(0.1)
    info = {"status": "finished", "score": {"box_ap": 0.5}, "began": began, "ended": time.time()}
    (out / "run.json").write_text(json.dumps(info))
"""


def silent(text: str) -> None:
    pass


def plan_of(root: Path, **options: Any) -> StudyPlan:
    return StudyRequest("gcnet", root, profile="smoke", **options).plan()


def one_row(root: Path) -> StudyPlan:
    """A study of one run, which needs none before it."""
    weights = root / "x.pth"
    weights.touch()
    return plan_of(root, rows=["pvt_small"], weights={"pvt_small": str(weights)})


def stand_in(text: str, *more: str) -> Callable[[Run], list[str]]:
    def command(run: Run) -> list[str]:
        recipe = yaml.safe_dump(run.recipe.model_dump(mode="json"))
        return [sys.executable, "-c", textwrap.dedent(text), str(run.out), recipe, *more]

    return command


def info_of(run: Run) -> dict[str, Any]:
    return dict(json.loads((run.out / "run.json").read_text()))


def test_runs_start_after_what_they_need_has_ended(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    states = run_plan(plan, stand_in(FINISHES), jobs=2, say=silent)
    assert {state.status for state in states.values()} == {"finished"}
    for run in plan.runs:
        if (needed := plan.pretraining_of(run)) is not None:
            assert info_of(run)["began"] >= info_of(needed)["ended"]


def test_jobs_bound_what_runs_side_by_side(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=2)
    run_plan(plan, stand_in(FINISHES), jobs=2, say=silent)
    times = [(info_of(run)["began"], info_of(run)["ended"]) for run in plan.runs]
    together = max(sum(began <= at < ended for began, ended in times) for at, _ in times)
    assert together <= 2


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    run_plan(plan, stand_in(FINISHES), say=silent)
    states = run_plan(plan, stand_in("raise SystemExit(3)"), say=silent)
    assert {state.status for state in states.values()} == {"finished"}


def test_a_failure_is_written_down_and_the_others_go_on(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)

    def command(run: Run) -> list[str]:
        fails = "import sys; sys.stderr.write('error: out of memory\\nhint: buy some\\n'); sys.exit(1)"
        return stand_in(fails if run.row == "resnet50_gc_r4" else FINISHES)(run)

    states = run_plan(plan, command, say=silent)
    assert states["resnet50_gc_r4/seed0"].status == "failed"
    assert states["pvt_small/seed0"].status == "finished"
    run = plan.find("resnet50_gc_r4/seed0")
    assert state_of(run).reason == "out of memory"
    assert "buy some" in log_file(run).read_text()
    # asked again, it is tried again
    assert run_plan(plan, stand_in(FINISHES), say=silent)[run.name].status == "finished"
    assert not failure_file(run).exists()


def test_what_needs_a_failed_pretraining_fails_with_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=["pvt_small"])
    states = run_plan(plan, stand_in("raise SystemExit(1)"), say=silent)
    assert {state.status for state in states.values()} == {"failed"}
    assert "pretraining/" in str(states["pvt_small/seed0"].reason)


def test_a_killed_process_says_the_signal(tmp_path: Path) -> None:
    plan = one_row(tmp_path)
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_plan(plan, stand_in(kill), say=silent)["pvt_small/seed0"].reason == "ended by signal 9"


def test_stopping_reaches_the_runs_and_ends_with_their_code(tmp_path: Path) -> None:
    plan = one_row(tmp_path)
    saves = """
        import signal, sys, time
        from pathlib import Path
        signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[3]).write_text("saved"), sys.exit(75)))
        Path(sys.argv[3] + ".ready").write_text("")
        time.sleep(30)
    """
    mark = tmp_path / "mark"

    asks = (
        "import os, signal, time\nfrom pathlib import Path\n"
        f"while not Path({str(mark) + '.ready'!r}).exists(): time.sleep(0.05)\n"
        f"os.kill({os.getpid()}, signal.SIGTERM)"
    )
    asking: list[subprocess.Popen[bytes]] = []

    def say(text: str) -> None:  # the first thing that is said comes when a signal would be heard
        if text.startswith("pvt_small"):
            asking.append(subprocess.Popen([sys.executable, "-c", asks]))

    began = time.monotonic()
    with pytest.raises(Stopped) as caught:
        run_plan(plan, stand_in(saves, str(mark)), say=say)
    for process in asking:
        process.wait()
    assert caught.value.exit_code == ExitCode.RESUMABLE
    assert mark.read_text() == "saved"
    assert time.monotonic() - began < 25
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert state_of(plan.runs[0]).status == "missing"


def test_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    run_plan(plan_of(tmp_path), stand_in(FINISHES), say=silent)
    other = plan_of(tmp_path, overrides=["train.clip_grad=9"])
    with pytest.raises(UsageError, match=r"train\.clip_grad was") as caught:
        state_of(other.find("pvt_small/seed0"))
    assert "--out" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml"])
def test_a_damaged_run_has_failed_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    plan = plan_of(tmp_path)
    run_plan(plan, stand_in(FINISHES), say=silent)
    run = plan.find("pvt_small/seed0")
    (run.out / name).write_text("{[")
    state = state_of(run)
    assert state.status == "failed"
    assert f"{name} is damaged" in (state.reason or "")
    with pytest.raises(UsageError, match="damaged"):
        recipe_to_run(plan, run)
    others = [one for one in plan.runs if one is not run]
    assert {state_of(one).status for one in others} == {"finished"}


def test_weights_that_are_not_there_are_refused_before_anything_runs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, weights={"pvt_small": "/nowhere/pvt.pth"})
    with pytest.raises(UsageError, match="there is no file or folder /nowhere/pvt"):
        run_plan(plan, stand_in(FINISHES), say=silent)
    assert not plan.out.exists()


def test_timm_stands_for_its_weights_of_each_rows_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("pvtctl.studies.run.find_weights_file", looked.append)
    plan = plan_of(tmp_path, weights={"pvt_small": "timm"})
    run_plan(plan, stand_in(FINISHES), say=silent)
    assert set(looked) == {"timm:pvt_small"}


def test_weights_come_from_the_pretraining_and_stay(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    run = plan.find("pvt_small/seed0")
    with pytest.raises(UsageError, match="not finished"):
        recipe_to_run(plan, run)
    run_plan(plan, stand_in(FINISHES), say=silent)
    pretraining = plan.pretraining_of(run)
    assert pretraining is not None
    fresh = Run(run.name, run.kind, run.row, run.seed, run.recipe, tmp_path / "elsewhere", run.needs)
    recipe, resume = recipe_to_run(plan, fresh)
    assert not resume
    assert recipe.model.weights == str(pretraining.out)
    # a run that has begun keeps the weights that it began from
    flat = recipe.model_dump(mode="json")
    flat["model"]["weights"] = "/first/weights.pth"
    (run.out / "recipe.yaml").write_text(yaml.safe_dump(flat))
    recipe, resume = recipe_to_run(plan, run)
    assert resume
    assert recipe.model.weights == "/first/weights.pth"
    assert state_of(run).status == "finished"


def test_a_failed_pretraining_that_is_tried_again_is_waited_for(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=["pvt_small"])
    run_plan(plan, stand_in("raise SystemExit(1)"), jobs=2, say=silent)
    assert state_of(plan.find("pvt_small/seed0")).status == "failed"
    states = run_plan(plan, stand_in(FINISHES), jobs=2, say=silent)
    assert {state.status for state in states.values()} == {"finished"}


def test_the_reason_is_that_of_the_last_start(tmp_path: Path) -> None:
    plan = one_row(tmp_path)
    complains = "import sys; sys.stderr.write('error: disk full\\n'); sys.exit(1)"
    assert run_plan(plan, stand_in(complains), say=silent)["pvt_small/seed0"].reason == "disk full"
    assert run_plan(plan, stand_in("raise SystemExit(3)"), say=silent)["pvt_small/seed0"].reason == "exit code 3"


def test_a_run_that_is_at_work_elsewhere_has_not_failed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, rows=["pvt_small"])
    pretraining = plan.runs[0]
    pretraining.out.mkdir(parents=True)
    told: list[str] = []
    with (pretraining.out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert record_failure(pretraining, "another run is at work", 2).status == "running"
        states = run_plan(plan, stand_in("raise SystemExit(1)"), say=told.append)
    assert [states[run.name].status for run in plan.runs] == ["running", "missing"]
    assert any("pvt_small/seed0: waits for pretraining/" in text for text in told)
    assert not failure_file(pretraining).exists()


def test_a_moved_folder_is_gone_on_with(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "first", rows=["pvt_small"])
    run_plan(plan, stand_in(FINISHES), say=silent)
    run = plan.find("pvt_small/seed0")
    flat = run.recipe.model_dump(mode="json")
    flat["model"]["weights"] = str(plan.runs[0].out)
    (run.out / "recipe.yaml").write_text(yaml.safe_dump(flat))
    (run.out / "run.json").write_text(json.dumps({"status": "stopped"}))
    shutil.move(tmp_path / "first", tmp_path / "second")
    moved = plan_of(tmp_path / "second", rows=["pvt_small"])
    recipe, resume = recipe_to_run(moved, moved.find("pvt_small/seed0"))
    assert resume
    assert recipe.model.weights == str(moved.runs[0].out)
    assert yaml.safe_load((moved.runs[1].out / "recipe.yaml").read_text())["model"]["weights"] == recipe.model.weights
