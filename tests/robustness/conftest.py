"""The valid inputs and the run that nobody touches, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from child import warm
from valid import make_valid


@pytest.fixture(scope="session")
def valid(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Read only."""
    warm()
    return made_once("valid", make_valid)
