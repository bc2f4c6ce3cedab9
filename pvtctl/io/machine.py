"""The machine that pvtctl runs on, and its use by other processes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path


def cpu_name() -> str:
    """The processor's name as Linux gives it, elsewhere as Python's `platform` does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
