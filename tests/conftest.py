"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start: pytest runs a worker a core, and threads of one that
# wait for a core held by another cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with parity numbers and small real data sets, which lies beside some checkouts only."""
    folder = ROOT.parent / "shared"
    if not (folder / "parity" / "fill.py").is_file():
        pytest.skip("needs the shared parity and data folder beside the checkout")
    return folder
