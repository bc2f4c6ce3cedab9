"""Amounts of bytes as users write them."""

from __future__ import annotations

import pytest

from pvtctl.errors import UsageError
from pvtctl.io.machine import number_and_unit, size_in_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("7b", 7), ("2KB", 2000), ("1.5GiB", 3 << 29), ("500 mb", 500 * 10**6), ("3TiB", 3 << 40)],
)
def test_amounts_of_bytes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "0.2", "1XB", "nan", "1e3", "٣MB", "1 G B", "9" * 5000])
def test_what_is_no_amount_of_bytes(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of bytes"):
        size_in_bytes(text)


def test_a_number_and_its_unit() -> None:
    assert number_and_unit(" 1.5 GMACs") == (1.5, "gmacs")
    assert number_and_unit("GMACs") is None
