"""What Linux says of its processors, read from texts of several machines."""

from __future__ import annotations

import os

import pytest

from pvtctl.cost import memory
from pvtctl.io import machine

X86 = """processor\t: {0}
model name\t: Some CPU @ 2 GHz
physical id\t: {1}
core id\t\t: {2}
flags\t\t: fpu avx2 {3}

"""
ARM = """processor\t: {0}
Features\t: fp asimd bf16

"""


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Contents of files of the kernel, for four processors that may be used."""
    texts: dict[str, str] = {}
    monkeypatch.setattr(machine, "text_of", lambda file: texts.get(file, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    return texts


def test_two_threads_share_a_core(files: dict[str, str]) -> None:
    for cores, expected in (((0, 0, 1, 1), 2), ((0, 1, 2, 3), 4), ((0, 1, 0, 1), 2)):
        text = "".join(X86.format(cpu, 0, core, "") for cpu, core in enumerate(cores))
        files["/proc/cpuinfo"] = text + X86.format(4, 0, 9, "")  # a processor of others
        assert machine.cores_usable() == expected
    files["/proc/cpuinfo"] = "".join(X86.format(cpu, cpu // 2, cpu % 2, "") for cpu in range(4))
    assert machine.cores_usable() == 4, "two sockets"
    assert machine.cpus_usable() == 4
    assert machine.cpu_name() == "Some CPU @ 2 GHz"


def test_its_instructions(files: dict[str, str]) -> None:
    assert machine.cpu_flags() == frozenset()
    assert machine.cores_usable() is None
    files["/proc/cpuinfo"] = X86.format(0, 0, 0, "amx_bf16")
    assert machine.cpu_flags() & machine.BF16_FLAGS == {"amx_bf16"}
    files["/proc/cpuinfo"] = X86.format(0, 0, 0, "") * 2
    assert machine.cpu_flags() == {"fpu", "avx2"}
    files["/proc/cpuinfo"] = "".join(map(ARM.format, range(4)))
    assert machine.cpu_flags() & machine.BF16_FLAGS == {"bf16"}
    assert machine.cores_usable() is None
    assert machine.cpu_name()


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("", None), ("max 100000\n", None), ("150000 100000\n", 2), ("400000 100000", 4), ("1000", None), ("5 0", None)],
)
def test_a_container_may_use_less(files: dict[str, str], text: str, allowed: int | None) -> None:
    files["/sys/fs/cgroup/cpu.max"] = text
    assert machine.cpus_allowed() == allowed


def test_memory(files: dict[str, str]) -> None:
    assert (machine.memory_limit(), machine.available_memory()) == (None, None)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    files["/proc/meminfo"] = "MemTotal: 24 kB\nMemAvailable:   12 kB\n"
    assert (machine.memory_limit(), machine.available_memory()) == (None, 12 * 1024)
    files["/sys/fs/cgroup/memory.max"] = "4096\n"
    assert machine.memory_limit() == 4096


def test_what_a_model_may_take_is_what_the_container_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for total, limit, expected in ((100, None, 100), (100, 40, 40), (100, 400, 100), (None, 40, 40)):
        monkeypatch.setattr(memory, "total_memory", lambda total=total: total)
        monkeypatch.setattr(memory, "memory_limit", lambda limit=limit: limit)
        assert memory.memory_at_hand() == expected
