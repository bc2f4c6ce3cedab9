"""Files of a run directory that are damaged, left over, or another user's."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from toy_task import ToyTask, save_weights, settings

from pvtctl.engine import RunFolder, fit, single
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.stop import StopNow

DIST = single("cpu")


def train(folder: Path, **changes: Any) -> Any:
    with RunFolder.open(folder, {"name": "toy"}, resume=folder.exists(), dist=DIST) as run:
        return fit(ToyTask(), settings(**changes), run, DIST, save_weights=save_weights, talk=print)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that its time limit has stopped after a step."""
    with pytest.raises(PvtctlError, match="time limit"):
        train(tmp_path / "run", max_minutes=1e-9, log_every=1)
    return tmp_path / "run"


def replace(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"\0\xff", b"[" * 5000, b'["text"]'])
def test_a_lost_environment_is_started_anew(stopped: Path, content: bytes | None) -> None:
    replace(stopped / "environment.json", content)
    assert train(stopped).steps == 36
    assert len(json.loads((stopped / "environment.json").read_text())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0\xff", b"[" * 5000, b'{"status": 3}'])
@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "metrics.jsonl"])
def test_resuming_with_a_damaged_file_is_refused_by_its_name(stopped: Path, name: str, content: bytes) -> None:
    if name != "run.json":
        content = content.replace(b'{"status": 3}', b"- a\n- b")
    if name == "metrics.jsonl" and content == b"":
        content = b"\n"
    size = (stopped / "metrics.jsonl").stat().st_size
    replace(stopped / name, content.ljust(size) if name == "metrics.jsonl" else content)
    with pytest.raises(UsageError, match=rf"{name} is damaged") as error:
        train(stopped)
    assert len(str(error.value)) < 500
    assert error.value.hint


def test_logs_that_are_gone_begin_anew_and_shorter_ones_are_told(stopped: Path) -> None:
    metrics = stopped / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-20])
    with pytest.raises(UsageError, match=r"metrics.jsonl is damaged"):
        train(stopped)
    metrics.unlink()
    assert train(stopped).steps == 36
    assert json.loads(metrics.read_text().splitlines()[0])["step"] > 1


@pytest.mark.parametrize(
    "result", [None, {}, {"best": 3}, "text", {"metrics": {}, "best": {}, "best_epoch": "x", "epochs": 1}]
)
def test_a_finished_run_without_a_whole_result(tmp_path: Path, result: Any) -> None:
    train(tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"result": result}))
    with pytest.raises(UsageError, match=r"run.json is damaged"):
        train(tmp_path / "run")


def test_who_holds_the_lock_removes_what_killed_writers_left(stopped: Path) -> None:
    others = os.getppid()  # lives
    gone = [".run.json.4194399.tmp", "checkpoints/.step-00000009.pt.4194399.tmp", f".curves.png.{os.getpid()}.tmp"]
    kept = [f".curves.png.{others}.tmp", ".hidden.tmp", "notes.tmp", ".x.y.tmp"]
    for name in gone + kept:
        (stopped / name).write_text("half")
    train(stopped)
    assert not [name for name in gone if (stopped / name).exists()]
    assert all((stopped / name).read_text() == "half" for name in kept)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_lock_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        RunFolder.open(tmp_path / "run", {}, dist=DIST).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run" / ".lock").stat().st_mode) == mode


def test_a_lock_that_may_only_be_read_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunFolder.open(tmp_path / "run", {}, dist=DIST).close()
    inner = os.open

    def open_(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".lock") and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
    with RunFolder.open(tmp_path / "run", {}, resume=True, dist=DIST), pytest.raises(UsageError, match="at work"):
        RunFolder.open(tmp_path / "run", {}, resume=True, dist=DIST)


@pytest.mark.parametrize(
    ("error", "status"),
    [(StopNow(signal.SIGHUP), "stopped"), (KeyboardInterrupt(), "stopped"), (PvtctlError("no memory"), "failed")],
)
def test_the_status_says_how_an_unfinished_run_ended(tmp_path: Path, error: BaseException, status: str) -> None:
    """Also between its start and the loop, and not after the end."""
    with pytest.raises(type(error)), RunFolder.open(tmp_path / "run", {}, dist=DIST):
        raise error
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == status
    assert info["reason"]
    run = RunFolder.open(tmp_path / "run", {}, resume=True, dist=DIST)
    run.record(status="finished")
    with pytest.raises(type(error)), run:
        raise error
    assert run.info["status"] == "finished"
