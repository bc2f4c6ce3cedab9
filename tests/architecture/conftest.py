"""The package's sources, parsed once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pvtctl

PACKAGE = Path(pvtctl.__file__).parent


@pytest.fixture(scope="session")
def modules() -> dict[Path, ast.Module]:
    """Of every file, by its path in the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
