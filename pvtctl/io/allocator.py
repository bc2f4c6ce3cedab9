"""Keep memory between operations instead of returning it to the kernel (Linux with glibc).

Activations of tens of MB make glibc map and unmap memory at every operation; the page faults that follow can cost more than
the arithmetic. The command line and its worker processes therefore call `keep_memory` when they start; PVTCTL_MALLOC=system
leaves the allocator unchanged, as pvtctl does as a library. `without_collection` pauses Python's own garbage collector.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 1 << 30  # larger blocks are still mapped and unmapped one by one

_state = "system"


def keep_memory() -> str:
    """Raise glibc's mmap and trim thresholds to 1 GiB for this process; returns `allocator_state()`."""
    global _state
    if _state == "kept" or os.environ.get("PVTCTL_MALLOC", "keep") == "system" or not sys.platform.startswith("linux"):
        return _state
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return _state
    if mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES):
        _state = "kept"
    return _state


def allocator_state() -> str:
    """`kept` if freed memory stays with this process, `system` if the allocator is unchanged."""
    return _state


@contextmanager
def without_collection() -> Iterator[None]:
    """Context for making millions of objects that stay: looking for garbage among them again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
