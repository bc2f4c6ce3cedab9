"""When the benchmark says that a CPU kernel loses: not by chance, and not by next to nothing."""

from __future__ import annotations

import pytest
from run import is_faster


@pytest.mark.parametrize(
    ("ratios", "faster"),
    [
        ([0.9] * 5, True),
        ([0.9] * 4, False),  # one in sixteen by chance
        ([0.9] * 4 + [1.1], False),
        ([0.9] * 26 + [1.2] * 14, True),
        ([0.9] * 25 + [1.2] * 15, False),
        ([0.99] * 40, False),
        ([1.1] * 40, False),
    ],
)
def test_another_is_faster_in_more_rounds_than_by_chance(ratios: list[float], faster: bool) -> None:
    assert is_faster(ratios) is faster
    assert is_faster(ratios[::-1]) is faster
