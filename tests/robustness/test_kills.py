"""A bounded version of the kills and full disks of `python -m tests.robustness --kills N`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from kills import Kill, Killed, try_chain, try_full_disk


@pytest.mark.parametrize(
    "kills",
    [
        [
            Kill(signal.SIGKILL, "in a checkpoint", 150),
            Kill(signal.SIGINT, "in a checkpoint", 20, twice=True),
            Kill(signal.SIGTERM, "while the best weights are scored"),
        ],
        [
            Kill(signal.SIGHUP, "at start-up"),
            Kill(signal.SIGTERM, "in a step"),
            Kill(signal.SIGKILL, "after a rename", 9),
            Kill(signal.SIGUSR1, "while it draws", 2),
        ],
    ],
    ids=lambda kills: ", ".join(map(str, kills)),
)  # fmt: skip
def test_killed_and_resumed_equals_unbroken(valid: Path, tmp_path: Path, kills: list[Kill]) -> None:
    found = Killed()
    try_chain(0, kills, valid / "run", tmp_path / "work", found)
    assert not found.failures
    assert found.kills.total() == len(kills), "each was killed before its end"


@pytest.mark.parametrize("file_bytes", [2_000, 1_000_000])
def test_a_full_disk_is_told_and_the_run_goes_on_afterwards(valid: Path, tmp_path: Path, file_bytes: int) -> None:
    """The first size is reached by the recipe, the other one by a checkpoint."""
    found = Killed()
    try_full_disk(file_bytes, valid / "run", tmp_path / "work", found)
    assert not found.failures
