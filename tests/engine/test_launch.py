"""The launcher of `--gpus N`: which signals it hands on, and whose exit code it returns."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from pvtctl.engine import launch, start_distributed, stop_distributed
from pvtctl.errors import UsageError


def by_rank(*codes: str) -> list[str]:
    """A command that runs the Python text of its rank."""
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time; exec({list(codes)!r}[int(os.environ['RANK'])])"]


def told_when_ready(folder: Path, number: signal.Signals, ranks: int = 2) -> None:
    """Send this process the signal as soon as every rank has left a file in the folder."""

    def tell() -> None:
        end = time.monotonic() + 60
        while len(list(folder.iterdir())) < ranks and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell, daemon=True).start()


@pytest.mark.parametrize("stopped", [75, 130])
def test_a_process_that_was_stopped_decides_the_code(stopped: int) -> None:
    """The other one fails for the lack of it, and may end sooner."""
    assert launch(by_rank("sys.exit(1)", f"time.sleep(0.3); sys.exit({stopped})"), 2) == stopped
    assert launch(by_rank("sys.exit(1)", "time.sleep(0.3); sys.exit(3)"), 2) == 1
    assert launch(by_rank("sys.exit(0)", "sys.exit(0)"), 2) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 75), (signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_reach_processes_that_heed_them(tmp_path: Path, number: signal.Signals, code: int) -> None:
    heeds = f"""
signal.signal({number.value}, lambda *_: sys.exit({code}))
open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w")
time.sleep(60)
"""
    before = signal.getsignal(number)
    told_when_ready(tmp_path, number)
    assert launch(by_rank(heeds, heeds), 2) == code
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_processes_that_die_of_it_before_they_heed_it_can_be_resumed_too(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    dies = f"""
signal.signal({number.value}, signal.SIG_DFL)
open({str(tmp_path)!r} + "/" + os.environ["RANK"], "w")
time.sleep(60)
"""
    told_when_ready(tmp_path, number)
    assert launch(by_rank(dies, dies), 2) == code


def test_a_world_size_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'x', not a number"):
        start_distributed("cpu")


@pytest.mark.parametrize(
    ("version", "waits"), [("2.6.0", True), ("2.7.1+cpu", True), ("2.8.0", False), ("2.14.1", False)]
)
def test_threads_of_an_old_torch_end_what_they_do_before_they_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, version: str, waits: bool
) -> None:
    """Its process group, while it is destroyed, lets no thread run Python, and waits for those that need to."""
    done: list[str] = []
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: done.append("destroyed"))
    monkeypatch.setattr(time, "sleep", lambda seconds: done.append("waited"))
    stop_distributed()
    assert done == (["waited"] if waits else []) + ["destroyed"]
