"""Run folders and checkpoints: locks, changed recipes, damaged files, full disks."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_task import ToyTask, save_weights, settings

from pvtctl.engine import RunFolder, find_runs, fit, read_info, read_run_recipe, single
from pvtctl.engine.checkpoint import CheckpointStore, is_intact, load_state
from pvtctl.errors import ExitCode, PvtctlError, UsageError

DIST = single("cpu")
RECIPE = {"name": "toy", "row": "small", "train": {"lr": 1e-05, "betas": (0.9, 0.999)}, "data": {"path": None}}


def test_the_recipe_is_kept_as_it_was(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", RECIPE, dist=DIST).close()
    assert read_run_recipe(tmp_path / "run") == {**RECIPE, "train": {"lr": 1e-05, "betas": [0.9, 0.999]}}
    assert read_info(tmp_path / "run")["row"] == "small"


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already") as error:
        RunFolder.open(tmp_path / "run", RECIPE, dist=DIST)
    assert error.value.hint == "choose another --out"
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_an_existing_run_is_offered_to_resume(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", RECIPE, dist=DIST).close()
    with pytest.raises(UsageError, match="exists already") as error:
        RunFolder.open(tmp_path / "run", RECIPE, dist=DIST)
    assert "--resume" in (error.value.hint or "")
    RunFolder.open(tmp_path / "run", RECIPE, resume=True, dist=DIST).close()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunFolder.open(tmp_path / "run", RECIPE, dist=DIST).close()


def test_a_start_that_died_at_once_is_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder.open(folder, {"name": "first"}, dist=DIST):
        (folder / "run.json").unlink()
    with RunFolder.open(folder, {"name": "second"}, dist=DIST) as run:
        assert run.info["name"] == "second"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("a recipe that a user put there")
    with pytest.raises(UsageError, match="exists already"):
        RunFolder.open(tmp_path / "mine", {}, dist=DIST)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        RunFolder.open(tmp_path / "run", RECIPE, resume=True, dist=DIST)
    assert not (tmp_path / "run").exists()


def test_resume_with_a_changed_recipe_names_the_keys(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", RECIPE, dist=DIST).close()
    changed = {**RECIPE, "train": {"lr": 1e-3, "betas": (0.9, 0.999), "new": 1}}
    with pytest.raises(UsageError, match=r"train.lr was 1e-05, is 0.001; train.new was None, is 1"):
        RunFolder.open(tmp_path / "run", changed, resume=True, dist=DIST)
    other = {**RECIPE, "train": {str(number): 1 for number in range(20)}}
    with pytest.raises(UsageError, match=r"train.1 was None, is 1; [^;]*; [^;]*; [^;]*; [^;]*; and 16 more$"):
        RunFolder.open(tmp_path / "run", other, resume=True, dist=DIST)
    described = {**RECIPE, "about": "the same in other words", "expect": {"top1_err": 20.2}}
    RunFolder.open(tmp_path / "run", described, resume=True, dist=DIST).close()
    moved = {**RECIPE, "data": {"path": "/elsewhere"}}
    RunFolder.open(tmp_path / "run", moved, resume=True, dist=DIST).close()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    first = RunFolder.open(tmp_path / "run", RECIPE, dist=DIST)
    with pytest.raises(UsageError, match=f"another run is at work in .*process {os.getpid()}"):
        RunFolder.open(tmp_path / "run", RECIPE, resume=True, dist=DIST)
    first.close()
    RunFolder.open(tmp_path / "run", RECIPE, resume=True, dist=DIST).close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of a thread of pytest's, which the copy does not have
def test_the_lock_ends_with_the_process_even_while_its_workers_live(tmp_path: Path) -> None:
    told, tell = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            _run = RunFolder.open(tmp_path / "run", {"name": "toy"}, dist=DIST)
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            os.write(tell, str(worker).encode())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(tell)
    os.waitpid(process, 0)
    worker = int(os.read(told, 9))
    os.close(told)
    try:
        RunFolder.open(tmp_path / "run", {"name": "toy"}, resume=True, dist=DIST).close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_find_runs_gives_the_newest_finished_one_first(tmp_path: Path) -> None:
    for number, (row, state) in enumerate([("a", "finished"), ("a", "finished"), ("b", "finished"), ("a", "failed")]):
        with RunFolder.open(tmp_path / "deep" / str(number), {"name": "toy", "row": row}, dist=DIST) as run:
            run.record(status=state, finished=f"2030-01-0{number + 1}")
    assert [path.name for path in find_runs(tmp_path, name="toy", row="a")] == ["1", "0"]
    assert [path.name for path in find_runs(tmp_path, status=None)] == ["3", "2", "1", "0"]


def test_checkpoints_hold_plain_values_and_only_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.save({"step": step, "x": torch.full((3,), step)}, step)
    assert [file.name for file in store.files()] == ["step-00000003.pt", "step-00000002.pt"]
    assert load_state(store.files()[0])["x"].tolist() == [3, 3, 3]


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save({"x": torch.arange(1000)}, step)
    newest = store.files()[0]
    data = bytearray(newest.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"cut": data[: len(data) // 2], "flip": data, "empty": b""}[harm])
    assert not is_intact(newest)
    assert store.newest(print) == tmp_path / "step-00000001.pt"
    assert "step-00000002.pt is damaged" in capsys.readouterr().out


def test_a_run_with_a_damaged_checkpoint_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    def train(folder: Path, **changes: Any) -> ToyTask:
        task = ToyTask()
        with RunFolder.open(folder, {}, resume=folder.exists(), dist=DIST) as run:
            fit(task, settings(**changes), run, DIST, save_weights=save_weights, talk=print)
        return task

    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "run"
    train(folder, save_minutes=1e-9, keep_checkpoints=9)
    with RunFolder.open(folder, {}, resume=True, dist=DIST) as run:
        run.record(status="running")
        newest = run.checkpoints.files()[0]
    newest.write_bytes(newest.read_bytes()[:-50])
    again = train(folder)
    assert len(again.seen) == 1
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), unbroken.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"world_size": 2}, "made by 2 processes, and this is 1", "--gpus 2"),
        ({"batches_per_epoch": 99}, "the data has changed: 99 batches an epoch before, 12 now", "another --out"),
    ],
)
def test_resume_under_other_conditions_is_refused(
    tmp_path: Path, change: dict[str, int], message: str, hint: str
) -> None:
    with RunFolder.open(tmp_path / "run", {}, dist=DIST) as run:
        fit(ToyTask(), settings(max_steps=2), run, DIST, save_weights=save_weights, talk=print)
        run.checkpoints.save({**load_state(run.checkpoints.files()[0]), **change}, 3)
        run.record(status="running")
        with pytest.raises(UsageError, match=message) as error:
            fit(ToyTask(), settings(), run, DIST, save_weights=save_weights, talk=print)
    assert hint in (error.value.hint or "")


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ToyTask()
    inner = torch.save

    def full(value: Any, handle: Any) -> None:
        if len(task.seen) > 10:
            handle.handle = _Full()
        inner(value, handle)

    monkeypatch.setattr("pvtctl.engine.checkpoint.torch.save", full)
    with (
        pytest.raises(PvtctlError, match="the checkpoint could not be saved: the disk is full") as error,
        RunFolder.open(tmp_path / "run", {}, dist=DIST) as run,
    ):
        fit(task, settings(save_minutes=1e-9), run, DIST, save_weights=save_weights, talk=print)
    assert error.value.exit_code == ExitCode.FAILED
    assert "free some space" in (error.value.hint or "")
    folder = tmp_path / "run" / "checkpoints"
    files = sorted(folder.glob("*.pt"))
    assert [file.name for file in files] == ["step-00000009.pt", "step-00000010.pt"]
    assert {file.name for file in folder.iterdir()} == {
        f"{file.stem}{end}" for file in files for end in (".pt", ".sha256")
    }
    assert all(is_intact(file) for file in files)
    monkeypatch.undo()
    with RunFolder.open(tmp_path / "run", {}, resume=True, dist=DIST) as run:
        assert fit(ToyTask(), settings(), run, DIST, save_weights=save_weights, talk=print).steps == 36


class _Full:
    """A file on a disk without space."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        return None


def test_logs_on_a_full_disk_give_one_clear_line(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", {}, dist=DIST) as run:
        (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(PvtctlError, match=r"metrics.jsonl could not be written"):
            run.log({"event": "train"})
