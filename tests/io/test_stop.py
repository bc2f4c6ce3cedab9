"""Signals that ask to stop: raised where nothing waits for them, a request inside a loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from pvtctl.io import stop
from pvtctl.io.stop import StopNow, Stopped, StopRequests, stop_signals, stopped_by, stops_raise

ASKING = [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _not_just_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "_heeded", -1e9)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_is_raised_through_whatever_catches_errors(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def guarded() -> None:
        with suppress(Exception):
            signal.raise_signal(number)
            pytest.fail("went on")

    with pytest.raises(StopNow) as raised, stops_raise():
        guarded()
    assert raised.value.number == number
    assert number.name in str(raised.value)
    assert signal.getsignal(number) == before


def test_the_second_of_a_pair_does_not_disturb_the_end() -> None:
    """A session's end sends SIGTERM and SIGHUP."""
    cleaned = []

    def ends() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGHUP)
            cleaned.append(1)

    with pytest.raises(StopNow), stops_raise():
        ends()
    assert cleaned


def test_a_run_that_was_saved_is_not_disturbed_either() -> None:

    def ends() -> None:
        try:
            raise stopped_by(signal.SIGTERM, "step 3")
        finally:
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(Stopped), stops_raise():
        ends()


@pytest.mark.parametrize("number", [*ASKING, signal.SIGINT])
def test_inside_a_loop_it_is_a_request(number: signal.Signals) -> None:
    def loop() -> None:
        with StopRequests() as requests:
            signal.raise_signal(number)
            raise stopped_by(requests.code, "step 3")

    with pytest.raises(Stopped, match=number.name if number != signal.SIGINT else "Ctrl-C"):
        loop()


def test_a_request_that_nobody_looked_at_acts_after_the_loop() -> None:
    with pytest.raises(StopNow), stops_raise(), StopRequests():
        signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(KeyboardInterrupt), StopRequests():
        signal.raise_signal(signal.SIGINT)


def test_a_second_interrupt_that_torch_has_hidden() -> None:
    def write() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("unexpected pos") from None

    with pytest.raises(KeyboardInterrupt), StopRequests():
        write()


def test_a_terminals_end_is_ignored_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        assert signal.SIGHUP not in stop_signals()
        with stops_raise(), StopRequests() as requests:
            signal.raise_signal(signal.SIGHUP)
            assert requests.code == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_no_handlers() -> None:
    seen = []

    def look() -> None:
        with stops_raise(last=True), StopRequests():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("launcher", ["", "x", "-1", "1.5"])
def test_a_launcher_that_is_no_number_is_none(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    monkeypatch.setenv(stop.LAUNCHER, launcher)
    assert not stop.orphaned()
    monkeypatch.setenv(stop.LAUNCHER, str(os.getppid()))
    assert not stop.orphaned()
    monkeypatch.setenv(stop.LAUNCHER, str(os.getpid()))
    assert stop.orphaned()


def test_the_command_ends_with_its_code_whatever_comes_at_the_end() -> None:
    """In a process of its own: the handlers stay as they are when it ends."""
    code = """
import os, signal, sys
from pvtctl.cli import main as cli
def invoked(**_):
    os.kill(os.getpid(), signal.SIGTERM)
cli.typer.main.get_command = lambda app: lambda **_: invoked()
sys.argv = ["pvtctl", sys.argv[1], "scenes"]
code = cli.main()
os.kill(os.getpid(), signal.SIGHUP)
sys.exit(code)
"""
    for command, expected in (("pretrain", 75), ("predict", 143)):
        done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True)
        assert done.returncode == expected, done.stderr
        assert done.stderr.startswith("error: stopped by SIGTERM"), done.stderr
        assert ("--resume" in done.stderr) == (expected == 75)
