"""A bounded version of the damaged inputs of `python -m tests.robustness --inputs N`."""

from __future__ import annotations

from pathlib import Path

import pytest
from attempts import try_inputs

PARTS, EACH = 2, 50


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_inputs_are_refused_in_words(valid: Path, tmp_path: Path, part: int) -> None:
    """No crash, no fault of ours, no hang, the right exit code. A seed makes its input again (`__main__.py`)."""
    found = try_inputs(valid, tmp_path / "work", range(part * EACH, (part + 1) * EACH), keep=tmp_path / "kept")
    assert found.tried.total() == EACH
    assert not found.failures, "\n".join(map(str, found.failures))
