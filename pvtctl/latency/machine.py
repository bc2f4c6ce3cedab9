"""Describe the machine of a measurement, and measure its use by other processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pvtctl.io.machine import cpu_name


def describe_machine(device: str) -> dict[str, Any]:
    """Plain JSON: system, CPU, cores, memory, library versions, and the GPU when `device` is one."""
    import torch

    machine: dict[str, Any] = {
        "system": platform.platform(terse=True),
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "cpu_cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        machine |= {"gpu": properties.name, "gpu_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        machine["tf32_matmul"] = torch.backends.cuda.matmul.allow_tf32
    return machine


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


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
