"""Names to bytes, names to text that can be shown."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtctl.io.names import name_bytes, plural, shown, with_count

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=50)
any_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, categories=None), max_size=20)


@pytest.mark.parametrize(
    ("thing", "many"),
    [("epoch", "epochs"), ("box", "boxes"), ("class", "classes"), ("pass", "passes"), ("batch", "batches"),
     ("query", "queries"), ("key", "keys"), ("training view", "training views"), ("seed", "seeds")],
)  # fmt: skip
def test_numbers_of_things(thing: str, many: str) -> None:
    assert [plural(number, thing) for number in (0, 1, 2, 1200)] == [
        f"0 {many}",
        f"1 {thing}",
        f"2 {many}",
        f"1200 {many}",
    ]


def test_numbers_in_what_is_said_of_things() -> None:
    assert with_count("boxes without area; dropped", 1) == "boxes without area (1); dropped"
    assert with_count("images of a test split: left out", 2) == "images of a test split (2): left out"
    assert with_count("images not found", 3) == "images not found (3)"


@EXAMPLES
@given(any_text)
def test_bytes_of_any_name(name: str) -> None:
    found = name_bytes(name)
    try:
        assert found == name.encode()  # so that fingerprints of old runs stay
    except UnicodeEncodeError:
        assert any("\ud800" <= char <= "\udfff" for char in name)


@EXAMPLES
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_names_on_the_disk_keep_their_bytes(one: bytes, other: bytes) -> None:
    assert name_bytes(one.decode("utf-8", "surrogateescape")) == one
    if one != other:
        assert name_bytes(os.fsdecode(one)) != name_bytes(os.fsdecode(other))


@EXAMPLES
@given(any_text)
def test_what_is_shown_is_one_line_that_can_be_encoded(name: str) -> None:
    found = shown(name)
    found.encode()
    assert len(found.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0x202A <= ord(char) <= 0x202E for char in found)


def test_hidden_characters() -> None:
    assert shown("a\x1b[2J\r\n\t") == "a\\x1b[2J\\x0d\\x0a\\x09"
    assert shown("\u202egpj.exe\u2066\u2028\udce9\U000e0041") == "\\u202egpj.exe\\u2066\\u2028\\udce9\\U000e0041"
    assert shown("a\nb\x9b", keep="\n") == "a\nb\\x9b"


def test_what_can_be_read_stays() -> None:
    for name in ("café", "日本語 のファイル", "עברית", "a\u00a0b", "👩\u200d🚀", "नमस्\u200cते", "%s {} $(x) [bold]"):
        assert shown(name) == name


def test_long_names_are_cut() -> None:
    assert shown("ab" * 100) == "ab" * 100
    found = shown("a" * 5000 + "end")
    assert len(found) == 200
    assert found.startswith("a" * 100)
    assert found.endswith("end")
    assert len(shown("a" * 5000, most=None)) == 5000
    assert shown(17) == "17"
