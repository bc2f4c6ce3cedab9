"""YAML reading gives back what was written, with the place of every key; damaged text is an error, never a crash."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvtctl.errors import UsageError
from pvtctl.io import plain_yaml
from pvtctl.recipe.source import recipe_names, recipe_path
from pvtctl.recipe.yaml_loader import parse_value, parse_yaml

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=30)

words = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
"""Text whose JSON form is YAML too: no pairs of surrogates, and no DEL, which YAML does not allow."""
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    words,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
documents = st.dictionaries(words, values, min_size=1, max_size=4)


def paths(data: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Of every key, below lists by their index."""
    if isinstance(data, list):
        return {path for index, item in enumerate(data) for path in paths(item, (*at, str(index)))}
    if isinstance(data, dict):
        return {path for key, value in data.items() for path in ({(*at, key)} | paths(value, (*at, key)))}
    return set()


def same(found: Any, written: Any) -> bool:
    """Equal, and of the same types: True is not 1, 1.0 is not 1."""
    if isinstance(written, dict):
        return found.keys() == written.keys() and all(same(found[key], written[key]) for key in written)
    if isinstance(written, list):
        return len(found) == len(written) and all(map(same, found, written))
    return type(found) is type(written) and found == written


@EXAMPLES
@given(documents, st.sampled_from([None, 2]))
def test_json_is_read_as_it_was_written(data: dict[str, Any], indent: int | None) -> None:
    document = parse_yaml(json.dumps(data, indent=indent), "a.yaml")
    assert same(document.data, data)
    assert document.faults == []
    assert set(document.marks) == paths(data)


@EXAMPLES
@given(documents)
def test_keys_are_found_on_their_lines(data: dict[str, Any]) -> None:
    text = "\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
    document = parse_yaml(text, "a.yaml")
    assert same(document.data, data)
    assert [document.marks[(key,)].line for key in data] == list(range(1, len(data) + 1))


@EXAMPLES
@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**17), 10**17)))
def test_numbers_are_read_as_python_writes_them(number: float) -> None:
    found = parse_value(repr(number))
    assert type(found) is type(number)
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)


@EXAMPLES
@given(
    st.sampled_from(
        ["yes", "no", "on", "off", "Yes", "OFF", "y", "n", "1_000", "0b1", "12:30", "2021-07-07", "=", "<<"]
    )
)
def test_words_that_older_yaml_reads_otherwise_are_text(word: str) -> None:
    assert parse_value(word) == word


@settings(EXAMPLES, max_examples=100)
@given(st.one_of(st.text(max_size=40), st.text("{}[]:,-#&*!|>'\"%@` \n\tab1.", max_size=40)))
def test_any_text_is_a_document_or_an_error_in_words(text: str) -> None:
    with suppress(UsageError):  # anything else would reach the user as a traceback
        parse_yaml(text, "a.yaml")
    with suppress(UsageError):
        parse_value(text)


def outcome(text: str) -> Any:
    """Everything that a document says, or the error."""
    parse_yaml.cache_clear()
    try:
        document = parse_yaml(text, "a.yaml")
    except UsageError as error:
        return error.message
    return repr(document.data), list(document.marks.items()), document.faults


def assert_parsed_alike(text: str) -> None:
    found = outcome(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_yaml, "_FastLoader", None)
        assert found == outcome(text), text


PIECES = [*"ab1.,[]{}'\"#&*|>?!%@`~\t\\\x07\xa0\u2028", ": ", "- ", " ", "\n", "\n  ", "--- ", "!!int ", ">-\n  "]


@settings(EXAMPLES, max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_both_parsers_say_the_same(text: str) -> None:
    assert_parsed_alike(text)
    assert_parsed_alike(f"a:\n  b: {text}\nc: 1\n")


def test_both_parsers_read_the_recipes_alike() -> None:
    for name in recipe_names():
        assert_parsed_alike(recipe_path(name).read_text())
