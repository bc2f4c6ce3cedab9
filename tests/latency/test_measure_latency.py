"""The stopwatch: turns, processes, memory, and what happens when a case cannot run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import pytest
from forked import ForkedPopen

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.machine import OthersShare
from pvtctl.latency import measure as latency
from pvtctl.latency.machine import describe_machine
from pvtctl.latency.measure import Case, measure_latency


class _FakeRun(latency._Run):
    """Answers at once: every call takes `seconds`."""

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        super().__init__(Case(name), process=None)  # type: ignore[arg-type]
        self._seconds = self._estimate = seconds
        self._log = log

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._log.append(f"{self.case.backbone}{request['calls']}")
        return {"seconds": [self._seconds] * request["calls"], "peak_memory_bytes": 5}


def test_turns_alternate_and_their_first_call_is_not_timed() -> None:
    log: list[str] = []
    fast, slow = _FakeRun("fast", 0.05, log), _FakeRun("slow", 1.0, log)
    latency._take_turns([fast, slow], seconds=0.1, repeats=8)
    assert log == ["fast6", "slow1", "slow1", "fast4", *["slow1"] * 6]
    assert len(fast.times) == len(slow.times) == 8


def test_a_case_is_timed_for_its_seconds_but_at_least_seven_times() -> None:
    slow, fast = _FakeRun("slow", 2.0, []), _FakeRun("fast", 0.01, [])
    latency._take_turns([slow, fast], seconds=1.0, repeats=None)
    assert len(slow.times) == 7
    assert 1.0 <= sum(fast.times) < 1.5


def test_the_numbers_of_a_row() -> None:
    run = _FakeRun("net", 1.0, [])
    run.times = [at / 1000 for at in range(1, 12)]
    row = run.result(0.25).to_dict()
    assert row["p50_ms"] == pytest.approx(6)
    assert row["p90_ms"] == pytest.approx(10)
    assert row["min_ms"] == pytest.approx(1)
    assert row["images_per_second"] == pytest.approx(11 / 0.066)
    assert (row["backbone"], row["size"], row["calls"], row["others_cpu_share"]) == ("net", [224, 224], 11, 0.25)


@pytest.mark.slow
def test_two_backbones_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen.__base__)  # a copy of this process has free memory to fill
    cases = [Case("pvt_v2_b0", (64, 64), 2, mode="train"), Case("resnet18", (64, 64), 2, mode="train", head="none")]
    talk: list[str] = []
    rows, machine = measure_latency(cases, threads=1, warmup=1, repeats=2, on_progress=talk.append)
    assert [row.case for row in rows] == cases
    for row in rows:
        assert row.calls == 2
        assert 0 < row.min_ms <= row.p50_ms <= row.p90_ms
        # AdamW's training step holds weights, gradients and two moments: at least four times the weights
        weights = 4 * {"pvt_v2_b0": 3_666_760, "resnet18": 11_176_512}[row.case.backbone]
        assert 4 * weights < row.peak_memory_bytes < 4 * weights + 100 * 2**20
    assert machine["threads"] == 1
    assert {"cpu", "cpu_cores", "torch", "allocator", "device"} <= set(machine)
    assert len(talk) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "head"), [("resnet18@0.125", "mask_rcnn"), ("timm:resnet10t", "dpt")])
def test_libraries_are_not_in_the_peak_memory(backbone: str, head: str) -> None:
    """Nothing but modules of the standard library is loaded after the memory was read, which takes up to 200 MiB."""
    case = asdict(Case(backbone, (64, 64), head=head, options='{"head": {"width": 16}}')) | {
        "device": "cpu",
        "threads": 1,
        "warmup": 0,
        "modules": [],
    }
    script = f"""
import sys
from pvtctl.latency import worker
class Memory(worker._PeakMemory):
    def __init__(self, device):
        self.loaded = set(sys.modules)
        super().__init__(device)
worker._PeakMemory = Memory
ran = worker._Worker({case | {"layers": None}!r})
ran.prepare()
late = {{name.partition(".")[0] for name in set(sys.modules) - ran._memory.loaded}}
print(*sorted(late - set(sys.stdlib_module_names) - {{"pvtctl"}}))
"""
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "\n"


def test_out_of_memory_is_one_line() -> None:
    with pytest.raises(PvtctlError, match="out of memory: resnet18 at 8192x8192, batch 100000") as caught:
        measure_latency([Case("resnet18", (8192, 8192), 100_000)], repeats=1)
    assert caught.value.exit_code == 1
    assert "--batch-size" in str(caught.value.hint)


def test_a_fault_in_the_worker_reaches_the_user_as_one_line() -> None:
    with pytest.raises(PvtctlError, match="no backbone is called 'pvt_smal'") as caught:
        measure_latency([Case("pvt_smal", (64, 64))], repeats=1)
    assert "pvt_small" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "out of memory: net at 224x224, batch 1"),
        ("import sys; sys.exit(7)", "ended with code 7"),
    ],
)
def test_a_worker_that_dies(code: str, message: str) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
    process.wait()
    with pytest.raises(PvtctlError, match=message):
        latency._Run(Case("net"), process)._ask({"calls": 1})
    for end in (process.stdin, process.stdout):
        assert end is not None
        with contextlib.suppress(BrokenPipeError):  # the request that nobody read
            end.close()


def test_a_worker_ends_with_its_block_and_with_its_parent() -> None:
    with latency._worker() as process:
        pid = process.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with latency._worker() as process:
        assert process.stdin is not None
        process.stdin.close()  # as when the parent is killed
        assert process.wait(timeout=60) == 0


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="must be positive"):
        measure_latency([Case("resnet18")], seconds=0)
    with pytest.raises(UsageError, match="must be positive"):
        measure_latency([Case("resnet18")], repeats=0)


def test_share_of_others() -> None:
    if not os.path.exists("/proc/stat"):  # noqa: PTH110
        pytest.skip("/proc/stat is Linux's")
    everyone = OthersShare([])
    mine = OthersShare([os.getpid()])
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    all_share, others_share = everyone.share(), mine.share()
    assert all_share is not None
    assert others_share is not None
    assert 0 <= others_share < all_share <= 1


def test_describe_machine() -> None:
    machine = describe_machine("cpu")
    assert machine["cpu_cores"] >= 1
    assert machine["memory_bytes"] > 2**28
    assert "gpu" not in machine
