"""The judge of the robustness tests: it sees what it is there to see."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from child import MEMORY, Ended, command, fault_of, run_forked


def ended(code: int = 0, out: str = "", err: str = "", cpu: float = 0.1) -> Ended:
    return Ended(code, out, err, cpu, 1.0)


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        (ended(err="a warning\n"), None),
        (ended(2, err="error: photo.png: no image\nhint: try another\n"), None),
        (ended(1, err="error: no\n"), "exit code 1, allowed are 0, 2"),
        (ended(2), "without a word"),
        (ended(-signal.SIGSEGV), "SIGSEGV"),
        (ended(-signal.SIGXCPU), "CPU seconds"),
        (ended(-signal.SIGKILL), "hangs"),
        (ended(cpu=31.0), "CPU seconds"),
        (ended(70, err="Traceback (most recent call last)\n  x\nKeyError: 1\n"), "KeyError"),
        (ended(1, err="error: KeyError: 1\nhint: this is a bug in pvtctl: please report it\n"), "unforeseen: error: KeyError"),
        (ended(1, err="error: out of memory\n"), "more than 2 GiB"),
        (ended(2, err="error: class \x1b[2J\n"), "as it is"),
        (ended(0, out="class \u202egpj\n"), "as it is"),
        (ended(2, err=f"error: {'x' * 3000}\n"), "a message of 3007 characters"),
        (ended(0, out="x\n" * 150_000), "characters of output"),
    ],
)  # fmt: skip
def test_what_is_a_fault(how: Ended, fault: str | None) -> None:
    found = fault_of(how, (0, 2))
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_json_is_one_strict_document() -> None:
    assert fault_of(ended(out='{"a": 1}\n'), (0, 2), json_document=True) is None
    assert fault_of(ended(2, err="error: no\n"), (0, 2), json_document=True) is None
    for text in ("", '{"a": NaN}', "{}{}", "a table"):
        assert "no document" in str(fault_of(ended(out=text), (0, 2), json_document=True))


def test_a_command_in_a_child(tmp_path: Path) -> None:
    there = run_forked(command(["models", "ls", "--json"]), tmp_path)
    assert there.code == 0
    assert '"pvt_tiny"' in there.out
    wrong = run_forked(command(["recipes", "check", "nowhere.yaml"]), tmp_path)
    assert wrong.code == 2
    assert wrong.last.startswith("error: ")


def test_limits_of_a_child(tmp_path: Path) -> None:
    def greedy() -> int:
        return len(bytearray(MEMORY + (1 << 28))) and 0

    def full() -> int:
        Path("big").write_bytes(bytes(1 << 17))
        return 0

    def killed() -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    assert "MemoryError" in run_forked(greedy, tmp_path).err
    assert "File too large" in run_forked(full, tmp_path, file_bytes=1 << 16).err
    assert run_forked(full, tmp_path).code == 0
    assert run_forked(killed, tmp_path).code == -signal.SIGSEGV
    stopped = run_forked(lambda: time.sleep(60) or 0, tmp_path, meanwhile=lambda pid: os.kill(pid, signal.SIGKILL))
    assert stopped.code == -signal.SIGKILL
    assert run_forked(lambda: print("out") or print("err", file=sys.stderr) or 3, tmp_path).code == 3
