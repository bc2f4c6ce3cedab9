"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with parity numbers and small real data sets, which lies beside some checkouts only."""
    folder = ROOT.parent / "shared"
    if not (folder / "parity" / "fill.py").is_file():
        pytest.skip("needs the shared parity and data folder beside the checkout")
    return folder
