"""The machine that pvtctl runs on, its use by other processes, and amounts of its memory and disks."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from pvtctl.errors import UsageError

BYTE_UNITS = {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", 1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
"""`kb` to `tb`, powers of 1000, and `kib` to `tib`, powers of 1024, in bytes."""


def number_and_unit(text: str) -> tuple[float, str] | None:
    """`1.5 GB` as 1.5 and `gb`; None for any other text than a number above 0 (and no absurd one) and letters or none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if found is None or not 0 < float(found[1]) < 1e100:
        return None
    return float(found[1]), found[2].lower()


def size_in_bytes(text: str) -> int:
    """`500MB`, `8GiB`, or a number of bytes. Raises UsageError."""
    number, unit = number_and_unit(text) or (0.0, "")
    size = int(number * ({"": 1, "b": 1} | BYTE_UNITS).get(unit, 0))
    if size == 0:
        raise UsageError(f"{text!r} is no amount of bytes", "write it as 500MB or 8GB")
    return size


BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Linux' names of the instructions that compute in bf16 (x86 and Arm)."""


def text_of(file: str) -> str:
    """Content of a file of the kernel; empty if it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError:
        return ""


def total_memory() -> int | None:
    """Bytes of this machine's memory; None where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def memory_limit() -> int | None:
    """Bytes that a container allows its processes (Linux, cgroup 2); None without a limit."""
    limit = text_of("/sys/fs/cgroup/memory.max").strip()
    return int(limit) if limit.isdigit() else None


def available_memory() -> int | None:
    """Bytes that processes can have without swapping (Linux), whatever a container allows; None where that is not known."""
    match = re.search(r"^MemAvailable:\s*(\d+) kB", text_of("/proc/meminfo"), re.MULTILINE)
    return 1024 * int(match[1]) if match else None


def _processors() -> list[dict[str, str]]:
    """The processors of /proc/cpuinfo (Linux), by their keys; those of one core share `physical id` and `core id`."""
    found = []
    for block in text_of("/proc/cpuinfo").strip().split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        found.append({key.strip(): value.strip() for key, _, value in pairs})
    return found


def cpu_name() -> str:
    """The processor's name as Linux gives it, elsewhere as Python's `platform` does."""
    names = [each["model name"] for each in _processors() if "model name" in each]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The processor's features in Linux' names; empty where they are not known."""
    lists = [each.get("flags") or each.get("Features") for each in _processors()]
    return frozenset(next((words for words in lists if words), "").split())


def cpus_usable() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_usable() -> int | None:
    """Physical cores of these processors (Linux); None where that is not known."""
    mine = {str(cpu) for cpu in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    cores = {
        (each["physical id"], each["core id"])
        for each in _processors()
        if each.get("processor") in mine and {"physical id", "core id"} <= each.keys()
    }
    return len(cores) or None


def cpus_allowed() -> int | None:
    """Processors whose time a container may use at once (Linux, cgroup 2), rounded up; None without a limit."""
    quota, _, period = text_of("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return math.ceil(int(quota) / int(period)) if quota.isdigit() and period.isdigit() and int(period) else None


class OthersShare:
    """Share of the CPU time of all cores that processes other than `pids` used between two moments (Linux).

    In a container /proc/stat is the host's, so other containers count: they disturb a measurement as well.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._before = self._ticks()

    def share(self) -> float | None:
        """Fraction of the machine since construction, or None where it cannot be read."""
        after = self._ticks()
        if self._before is None or after is None:
            return None
        busy, total, own = (now - then for now, then in zip(after, self._before, strict=True))
        return max(0.0, min(1.0, (busy - own) / total)) if total > 0 else None

    def _ticks(self) -> tuple[int, int, int] | None:
        """(busy, all, own) clock ticks so far."""
        try:
            cpu = [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:9]]
            own = sum(_process_ticks(pid) for pid in self._pids)
        except (OSError, ValueError, IndexError):
            return None
        return sum(cpu) - cpu[3] - cpu[4], sum(cpu), own  # the fourth is idle time, the fifth waiting for a disk


def _process_ticks(pid: int) -> int:
    # The command's name, in parentheses, may have spaces; user and system time are the 12th and 13th word after it.
    words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
