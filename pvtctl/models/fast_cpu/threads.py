"""How many threads an operation uses in inference commands on a CPU."""

from __future__ import annotations

import os

import torch

from pvtctl.io.machine import cores_usable, cpus_allowed, cpus_usable

_SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_taken: tuple[int, int] | None = None
"""torch's own number, and what `take_threads` has set."""


def own_threads() -> int:
    """The number of threads that torch or its user has set, whether or not `take_threads` has changed it since."""
    now = torch.get_num_threads()
    return _taken[0] if _taken is not None and now == _taken[1] else now


def take_threads(number: int) -> None:
    """Use `number` threads in this process; 0, and where the user has set a number: as many as before."""
    global _taken
    if number and not _is_set():
        _taken = (own_threads(), number)
        torch.set_num_threads(number)


def other_numbers() -> list[int]:
    """Numbers of threads that may be faster than torch's own: one for each core, one for each logical processor, or as many as
    a container may use at once. None where the user has set a number.
    """
    if _is_set():
        return []
    usable = min(cpus_usable(), cpus_allowed() or cpus_usable())
    found = {usable, min(cores_usable() or usable, usable)}
    return sorted(found - {own_threads()})


def _is_set() -> bool:
    return any(os.environ.get(name) for name in _SET_BY_USER)
