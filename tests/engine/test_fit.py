"""What the loop does in one process."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from toy_task import ToyTask, save_weights, settings

from pvtctl.engine import FitResult, RunFolder, Stopped, dry_run, fit, resolve_batch_size, single
from pvtctl.engine.run import TIMINGS
from pvtctl.errors import ExitCode, PvtctlError, UsageError

DIST = single("cpu")


def train(task: ToyTask, folder: Path, *, resume: bool = False, **changes: Any) -> FitResult:
    with RunFolder.open(folder, {"name": "toy"}, resume=resume, dist=DIST) as run:
        return fit(task, settings(**changes), run, DIST, save_weights=save_weights, talk=print)


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in found]


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


def same(a: ToyTask, b: ToyTask) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_loss_falls_on_one_repeated_batch(tmp_path: Path) -> None:
    train(ToyTask(samples=4, dropout=0.0), tmp_path / "run", epochs=60, eval_every=60, log_every=1)
    losses = [line["loss"] for line in lines(tmp_path / "run") if line["event"] == "train"]
    assert len(losses) == 60
    assert losses[-1] < 0.1 * losses[0]


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = train(ToyTask(), folder, ema={"enabled": True, "decay": 0.9, "warmup": True}, tensorboard=True)
    assert result.steps == 36
    assert result.epochs == 3
    info = json.loads((folder / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["score"] == result.best
    evaluations = [line for line in lines(folder) if line["event"] == "eval"]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3]
    assert all(line["metrics"]["seen"] == line["ema_metrics"]["seen"] == 13 for line in evaluations)
    best = max(line["ema_metrics"]["accuracy"] for line in evaluations)
    with safe_open(folder / "best.safetensors", "pt") as saved:
        assert json.loads(saved.metadata()["score"])["accuracy"] == best == result.best["accuracy"]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment[0]["packages"]["torch"]
    assert list((folder / "tensorboard").iterdir())
    kept = {end: {file.stem for file in (folder / "checkpoints").glob(f"*{end}")} for end in (".pt", ".sha256")}
    assert 1 <= len(kept[".pt"]) <= 2
    assert kept[".pt"] == kept[".sha256"]
    train_lines = [line for line in lines(folder) if line["event"] == "train"]
    assert [line["step"] for line in train_lines] == list(range(2, 37, 2))
    assert all(line["grad_norm"] > 0 and line["lr"] > 0 for line in train_lines)


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    first = train(ToyTask(), tmp_path / "run")
    task = ToyTask()
    assert train(task, tmp_path / "run", resume=True) == first
    assert not task.seen


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    parts = ToyTask(batch=2, dropout=0.0)
    train(parts, tmp_path / "parts", batch_size=2, accumulate=2)
    whole = ToyTask(batch=4, dropout=0.0)
    train(whole, tmp_path / "whole")
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    plain = {"optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "lr_scaling": "none"}}
    task = ToyTask(dropout=0.0)
    before = torch.nn.utils.parameters_to_vector(task.model.parameters()).clone()
    train(
        task, tmp_path / "run", clip_grad=0.01, max_steps=1, schedule={"name": "constant", "warmup_epochs": 0}, **plain
    )
    after = torch.nn.utils.parameters_to_vector(task.model.parameters())
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_max_steps_ends_the_run_with_an_evaluation(tmp_path: Path) -> None:
    result = train(ToyTask(), tmp_path / "run", max_steps=17)
    assert result.steps == 17
    assert result.epochs == 2
    assert lines(tmp_path / "run")[-1]["event"] == "eval"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, ExitCode.RESUMABLE), (signal.SIGUSR1, ExitCode.RESUMABLE), (signal.SIGINT, ExitCode.INTERRUPTED)],
)
def test_a_signal_saves_and_stops_and_the_rest_is_as_if_nothing_had_been(
    tmp_path: Path, number: signal.Signals, code: ExitCode
) -> None:
    unbroken = ToyTask()
    train(unbroken, tmp_path / "unbroken")
    task = ToyTask()
    inner = task.batch_size

    def interrupt(batch: Any) -> int:
        if len(task.seen) == 15:
            signal.raise_signal(number)
        return inner(batch)

    task.batch_size = interrupt  # type: ignore[method-assign]
    with pytest.raises(Stopped, match=r"stopped by .* at epoch 2/3, step 16/36; everything is saved") as stop:
        train(task, tmp_path / "run")
    assert stop.value.exit_code == code
    assert "--resume" in (stop.value.hint or "")
    assert status(tmp_path / "run") == "stopped"
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    resumed = ToyTask()
    train(resumed, tmp_path / "run", resume=True)
    assert len(resumed.seen) == 20
    assert same(resumed, unbroken)
    assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    task = ToyTask()
    inner = task.batch_size

    def interrupt(batch: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return inner(batch)

    task.batch_size = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(task, tmp_path / "run")
    assert status(tmp_path / "run") == "stopped"


def test_a_signal_during_evaluation_stops_there(tmp_path: Path) -> None:
    unbroken = ToyTask()
    train(unbroken, tmp_path / "unbroken")
    task = ToyTask()
    inner = task.predict

    def interrupt(model: Any, batch: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return inner(model, batch)

    task.predict = interrupt  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="while it was evaluated"):
        train(task, tmp_path / "run")
    train(resumed := ToyTask(), tmp_path / "run", resume=True)
    assert same(resumed, unbroken)
    assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")


def test_the_time_limit_stops_resumably(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="time limit") as stop:
        train(ToyTask(), tmp_path / "run", max_minutes=1e-9)
    assert stop.value.exit_code == ExitCode.RESUMABLE


def test_one_bad_batch_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ToyTask()
    task.bad_batches = {"point-5"}
    result = train(task, tmp_path / "run", epochs=2)
    assert result.skipped == 2
    noted = [json.loads(line) for line in (tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()]
    assert len(noted) == 2
    assert all("point-5" in line["ids"] and len(line["ids"]) == 4 for line in noted)
    assert "skipped" in capsys.readouterr().out
    assert all(torch.isfinite(p).all() for p in task.model.parameters())


def test_three_bad_steps_go_back_once_and_pass_over_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ToyTask()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1)).tolist()
    task.bad_batches = {f"point-{index}" for index in order[12:24]}  # batches 3, 4 and 5 of the second epoch
    inner = task.losses
    # Only in the second epoch: in the first, the same points do no harm.
    task.losses = lambda model, batch: (  # type: ignore[method-assign]
        inner(model, batch) if len(task.seen) >= 12 else _harmless(task, inner, model, batch)
    )
    result = train(task, tmp_path / "run", epochs=2)
    assert result.steps == 24
    assert result.skipped == 3
    assert "going back to epoch 1/2, step 12/24" in capsys.readouterr().out
    steps = [line["step"] for line in lines(tmp_path / "run") if line["event"] == "train"]
    assert steps == sorted(set(steps))


def _harmless(task: ToyTask, inner: Any, model: Any, batch: Any) -> Any:
    bad, task.bad_batches = task.bad_batches, set()
    result = inner(model, batch)
    task.bad_batches = bad
    return result


def test_a_loss_that_stays_non_finite_ends_the_run(tmp_path: Path) -> None:
    task = ToyTask()
    task.bad_batches = {f"point-{index}" for index in range(48)}
    with pytest.raises(PvtctlError, match="not finite: 3 steps in a row") as error:
        train(task, tmp_path / "run")
    assert error.value.exit_code == ExitCode.FAILED
    assert "train.optimizer.lr" in (error.value.hint or "")
    assert status(tmp_path / "run") == "failed"


def test_batch_norm_forgets_a_batch_that_was_skipped(tmp_path: Path) -> None:
    task = ToyTask()
    task.model = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    inner = task.to_device

    def poison(batch: Any, device: Any) -> Any:
        batch = inner(batch, device)
        if "point-5" in batch[2]:
            batch[0][0, 0] = float("inf")
        return batch

    task.to_device = poison  # type: ignore[method-assign]
    assert train(task, tmp_path / "run", epochs=1).skipped == 1
    assert all(torch.isfinite(buffer).all() for buffer in task.model.buffers())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_resumes_bit_for_bit(tmp_path: Path, precision: Any) -> None:
    unbroken, stopped, resumed = ToyTask(), ToyTask(), ToyTask()
    train(unbroken, tmp_path / "unbroken", precision=precision)
    inner = stopped.batch_size

    def interrupt(batch: Any) -> int:
        if len(stopped.seen) == 15:
            signal.raise_signal(signal.SIGTERM)
        return inner(batch)

    stopped.batch_size = interrupt  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train(stopped, tmp_path / "run", precision=precision)
    train(resumed, tmp_path / "run", resume=True, precision=precision)
    assert same(resumed, unbroken)
    assert lines(tmp_path / "run") == lines(tmp_path / "unbroken")


def test_a_resumed_run_keeps_the_precision_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pvtctl.engine.precision.cpu_flags", frozenset)
    monkeypatch.setattr("pvtctl.engine.precision.cpu_bf16_gain", lambda: 2.0)
    with pytest.raises(Stopped):
        train(ToyTask(), tmp_path / "run", precision="auto", max_minutes=1e-9)
    assert "precision bf16 (measured 2.0x as fast as fp32 on this CPU)" in capsys.readouterr().out
    monkeypatch.setattr("pvtctl.engine.precision.cpu_bf16_gain", lambda: 0.5)
    train(ToyTask(), tmp_path / "run", precision="auto", resume=True)
    assert "precision bf16 (as the run began)" in capsys.readouterr().out


def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    task = ToyTask()
    task.losses = lambda model, batch: {"loss": torch.empty(1 << 60)}  # type: ignore[method-assign]
    with pytest.raises(PvtctlError, match="out of memory with 4 images") as error:
        train(task, tmp_path / "run")
    assert "train.batch_size=2" in (error.value.hint or "")


def test_data_that_ends_early_is_an_error(tmp_path: Path) -> None:
    task = ToyTask()
    inner = task.batches_per_epoch
    task.train_loader = lambda **_: []  # type: ignore[method-assign]
    with pytest.raises(PvtctlError, match=f"the data ended at batch 0 of {inner(1)}"):
        train(task, tmp_path / "run")


def test_too_little_data_for_one_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not make one step"):
        train(ToyTask(samples=4), tmp_path / "run", accumulate=2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = dry_run(ToyTask(), settings(precision=precision), DIST, save_weights=save_weights, talk=print)
    assert report.steps == 36
    assert report.evaluations == 3
    assert report.val_batches == 4
    assert report.checkpoint_bytes > 0
    assert report.peak_memory_bytes > 0
    assert report.run_seconds > 0
    assert precision in report.precision
    assert not list(tmp_path.iterdir())


def test_batch_size_is_what_makes_the_total() -> None:
    assert resolve_batch_size(1024, None, 2, 8) == 64
    assert resolve_batch_size(1024, 16, 2, 8) == 16
    with pytest.raises(UsageError, match="does not split evenly"):
        resolve_batch_size(100, None, 1, 3)


@pytest.mark.slow
def test_compiled_training_equals_eager(tmp_path: Path) -> None:
    eager, compiled = ToyTask(dropout=0.0), ToyTask(dropout=0.0)
    train(eager, tmp_path / "eager", max_steps=3)
    train(compiled, tmp_path / "compiled", max_steps=3, compile=True)
    for a, b in zip(eager.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_overflow_in_fp16_leaves_the_log_valid_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = iter([torch.tensor(float("inf")), torch.tensor(3.0)])
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda gradients: next(norms))
    train(ToyTask(), tmp_path / "run", precision="fp16", max_steps=2)
    assert "Infinity" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert lines(tmp_path / "run")[0]["grad_norm"] == 3.0


@pytest.mark.parametrize("name", ["gpu", "tpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"device|no CUDA|no cuda:99"):
        single(name)


def test_images_that_this_process_cannot_read_are_its_own_fault_with_the_code_of_data(tmp_path: Path) -> None:
    """The first process tells what is wrong for all; this is not."""
    task = ToyTask()

    def unreadable(**_: Any) -> Any:
        raise UsageError("8 images in a row could not be read", "check them")
        yield

    task.train_loader = unreadable  # type: ignore[method-assign]
    with pytest.raises(PvtctlError, match="8 images in a row") as error:
        train(task, tmp_path / "run")
    assert not isinstance(error.value, UsageError)
    assert error.value.exit_code == ExitCode.USAGE
