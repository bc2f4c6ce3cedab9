"""YAML as people expect it, with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.errors import UsageError
from pvtctl.recipe.yaml_loader import MAX_BYTES, parse_value, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1:30", "1:30"),
        ("2021-07-07", "2021-07-07"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("[0.9, 0.999]", [0.9, 0.999]),
        ("{name: sgd, lr: 1e-2}", {"name": "sgd", "lr": 0.01}),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_every_key_has_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  c: 2\n  d: {e: 3}\n", "x.yaml")
    assert document.data == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert {".".join(path): str(mark) for path, mark in document.marks.items()} == {
        "a": "x.yaml:1",
        "b": "x.yaml:2",
        "b.c": "x.yaml:3",
        "b.d": "x.yaml:4",
        "b.d.e": "x.yaml:4",
    }


def test_repeated_keys_are_all_told() -> None:
    document = parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "x.yaml")
    assert document.faults == [
        "b.c: repeated key (x.yaml:2), first said in line 2",
        "a: repeated key (x.yaml:3), first said in line 1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x\n", "x.yaml:2: anchors and aliases are not taken; write the values out"),
        ("a:\n\tb: 1\n", "x.yaml:2: a tab where YAML wants spaces"),
        ("a: [1,\n", "x.yaml:2: expected the node content, but found '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2: more than one document (a second `---`)"),
        ("- a\n", "x.yaml:1: expected `key: value` lines"),
        ("", "x.yaml is empty"),
        ("# only a comment\n", "x.yaml is empty"),
        ("a: \x07\n", "x.yaml:1: a character that text files do not hold (#x07)"),
        ("a: " + "[" * 40 + "]" * 40, "x.yaml:1: more than 20 levels of nesting"),
    ],
)
def test_what_is_not_a_recipe_ends_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "x.yaml")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: .inf\n", "a: .inf is not a usable number (x.yaml:1)"),
        ("a: .nan\n", "a: .nan is not a usable number (x.yaml:1)"),
        ("a: 1e999\n", "a: 1e999 is not a usable number (x.yaml:1)"),
        (
            "a: !!python/name:os.system x\n",
            "a: the tag tag:yaml.org,2002:python/name:os.system is not taken (x.yaml:1)",
        ),
        ("a: !thing {b: 1}\n", "a: the tag !thing is not taken (x.yaml:1)"),
        ("b: {? [1] : 2}\n", "b: a key must be a word (x.yaml:1)"),
        ("a: !!int abc\n", "a: abc is not a number (x.yaml:1)"),
    ],
)
def test_values_that_no_recipe_can_use(text: str, fault: str) -> None:
    assert parse_yaml(text, "x.yaml").faults == [fault]


def test_a_merge_key_is_a_plain_key() -> None:
    assert parse_yaml("<<: {a: 1}\n", "x.yaml").data == {"<<": {"a": 1}}


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    Path("bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    Path("large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    Path("folder.yaml").mkdir()
    assert read_yaml("bom.yaml").data == {"a": 1}
    for name, message in {
        "latin.yaml": "latin.yaml:2: not UTF-8 text",
        "large.yaml": "large.yaml is larger than 1024 KiB",
        "missing.yaml": "missing.yaml cannot be read: No such file or directory",
        "folder.yaml": "folder.yaml cannot be read: Is a directory",
    }.items():
        with pytest.raises(UsageError) as caught:
            read_yaml(name)
        assert caught.value.message == message
        assert "\n" not in caught.value.message
