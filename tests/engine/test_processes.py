"""Runs in processes of their own, copies of this one (`forked.py`) but for one: killed, resumed, and on two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_task import command

from pvtctl.engine import launch
from pvtctl.engine.run import TIMINGS

SCRIPT = Path(__file__).with_name("toy_task.py")
DELAYED = ("--delay", 0.2)


@pytest.fixture(autouse=True)
def _toy_task_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent), prepend=os.pathsep)


def run(out: Path, *arguments: object, launchers: int = 0) -> int:
    return subprocess.run(command(out, *arguments, launchers=launchers)).returncode


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in found]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.pt", weights_only=True)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_unbroken_bit_for_bit(tmp_path: Path) -> None:
    """Mid-epoch, by SIGKILL, with another number of workers each time."""
    assert run(tmp_path / "unbroken") == 0
    assert run(tmp_path / "run", "--kill-at", 17) == -signal.SIGKILL
    assert run(tmp_path / "run", "--resume", "--kill-at", 9, "--workers", 2) == -signal.SIGKILL
    assert run(tmp_path / "run", "--resume", "--workers", 2) == 0
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "run"))
    assert lines(tmp_path / "unbroken") == lines(tmp_path / "run")


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_as_one_with_the_double_batch(tmp_path: Path) -> None:
    assert run(tmp_path / "one", "--batch", 8, "--dropout", 0) == 0
    program = [sys.executable, str(SCRIPT), str(tmp_path / "two"), "--batch", "4", "--dropout", "0"]
    assert launch(program, 2) == 0
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["event"] for line in one] == [line["event"] for line in two]
    for a, b in zip(one, two, strict=True):
        if a["event"] == "train":
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        else:
            assert a["metrics"]["seen"] == b["metrics"]["seen"] == 13
            assert a["metrics"] == b["metrics"]
    one_weights, two_weights = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in one_weights:
        torch.testing.assert_close(one_weights[key], two_weights[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_ranks_stop_by_a_signal_to_one_of_them_and_resume_bit_for_bit(tmp_path: Path) -> None:
    assert run(tmp_path / "unbroken", launchers=1) == 0
    out = tmp_path / "run"
    parent = subprocess.Popen(command(out, *DELAYED, launchers=1))
    _wait_for(out / "checkpoints")
    # The second rank alone is told: both must agree on the step to stop after.
    os.kill(int(out.with_suffix(".rank1").read_text()), signal.SIGUSR1)
    assert parent.wait(timeout=60) == 75
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert run(out, "--resume", launchers=1) == 0
    assert equal(weights(tmp_path / "unbroken"), weights(out))
    assert lines(tmp_path / "unbroken") == lines(out)


@pytest.mark.slow
def test_a_signal_to_the_launcher_reaches_its_ranks(tmp_path: Path) -> None:
    out = tmp_path / "run"
    parent = subprocess.Popen(command(out, *DELAYED, launchers=1))
    _wait_for(out / "checkpoints")
    parent.terminate()
    assert parent.wait(timeout=60) == 75


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2])
def test_ranks_whose_launcher_was_killed_save_and_stop(tmp_path: Path, levels: int) -> None:
    """Two levels: a study's process, which launches one for the run, which launches the ranks."""
    out = tmp_path / "run"
    parent = subprocess.Popen(command(out, *DELAYED, launchers=levels))
    _wait_for(out / "checkpoints")
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while json.loads((out / "run.json").read_text())["status"] != "stopped":
        assert time.monotonic() < end, "the ranks went on"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_error_on_the_first_rank_ends_all_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(tmp_path / "run", launchers=1) == 2


def test_launch_ends_the_others_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtctl.engine.distributed.GRACE", 0.5)
    code = "import os, sys, time; time.sleep(60) if os.environ['RANK'] == '0' else sys.exit(3)"
    began = time.monotonic()
    assert launch([sys.executable, "-c", code], 2) == 3
    assert time.monotonic() - began < 30


def _wait_for(folder: Path, seconds: float = 60.0) -> None:
    """Until a first checkpoint is there."""
    end = time.monotonic() + seconds
    while not list(folder.glob("step-*.pt")):
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.05)
