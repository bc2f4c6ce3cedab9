"""YAML in which `1e-4` is a number, `yes` is text and a date is text.

The scalars follow the YAML 1.2 core schema instead of PyYAML's 1.1. Anchors and aliases are errors: a small file could
expand into a large one. So are tags, keys that repeat, and nesting deeper than MAX_DEPTH.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pvtctl.io.foreign import BadFile, foreign, read_text
from pvtctl.io.names import shown

MAX_YAML = 4 << 20
"""Largest file in bytes."""
MAX_DEPTH = 20
MAX_NODES = 60_000
"""Keys and values of a document: the parser takes some 60 microseconds for each."""
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

_SCALARS = [  # YAML 1.2 core schema, in the order tried; longer whole numbers are text
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]{1,18}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
]


class _PlainComposer(yaml.composer.Composer, yaml.resolver.Resolver):
    """Refuses aliases, deep nesting and endless lists while it reads. Raises `yaml.MarkedYAMLError`."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        problem = f"more than {MAX_DEPTH} levels of nesting" if self.depth >= MAX_DEPTH else None
        if self.nodes >= MAX_NODES:
            problem = f"more than {MAX_NODES:,} keys and values"
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            problem = "anchors and aliases are not taken; write the values out"
        if problem:
            event = self.peek_event()  # type: ignore[attr-defined]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in _SCALARS:
    for _char in _first:
        _PlainComposer.yaml_implicit_resolvers.setdefault("" if _char == "\0" else _char, []).append(
            (_tag, re.compile(f"^(?:{_pattern})$"))
        )


class PlainLoader(_PlainComposer, yaml.SafeLoader):
    """PyYAML's own parser, whose messages are known."""


def _fast_loader() -> type[Any] | None:
    """The parser of libyaml, five times as fast, where PyYAML was built with it."""
    try:
        from yaml.cyaml import CParser  # type: ignore[attr-defined]
    except ImportError:
        return None

    class FastLoader(_PlainComposer, CParser):
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            yaml.composer.Composer.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return FastLoader


_FastLoader = _fast_loader()
_READ_ALIKE = re.compile(r'(?!---)(?:[ "-=@-{}~\n]|>(?!#))*')
"""Text of which both parsers make the same. libyaml also takes tabs inside lines, `?` in lists and `>#`, and has other
values for lone tags."""


def compose(text: str) -> Any:
    """The root node of a document; None if it is empty. Raises `yaml.YAMLError`."""
    if _FastLoader is not None and _READ_ALIKE.fullmatch(text):
        with suppress(yaml.YAMLError):  # the other parser explains it
            return _FastLoader(text).get_single_node()
    return yaml.compose(text, Loader=PlainLoader)


def plain_scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar: None, bool, int, float or text. Raises ValueError for other tags, NaN and infinity."""
    text = str(node.value)
    try:
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            case "float":
                value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case "str":
                return text
            case _:
                raise TypeError
    except TypeError:
        raise ValueError(f"the tag {node.tag} is not taken") from None
    except ValueError:  # `!!int abc`
        raise ValueError(f"{shown(text)} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a usable number")
    return value


def read_plain_yaml(path: Path | str, kind: type | None = None, *, hint: str | None = None) -> Any:
    """The value of a YAML file; None if it is empty. Keys are scalars: text, or numbers as in `0: cat`.

    Args:
        kind: `dict` or `list`: what the document must be; None for any.

    Raises:
        BadFile: With the line: the file cannot be read, is too large, not YAML, or has what this module does not take.
    """
    text = read_text(path, most=MAX_YAML, hint=hint)
    with foreign(path, hint):
        try:
            node = compose(text)
            value = None if node is None else _value(node)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join((error.problem or "not YAML").split())
            raise BadFile(
                path, f"is not plain YAML: {shown(problem)}", hint, line=mark.line + 1 if mark else None
            ) from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise BadFile(path, "has a character that text files do not hold", hint, line=line) from error
        if kind is not None and not isinstance(value, kind):
            raise BadFile(path, f"is not a YAML {'mapping' if kind is dict else 'list'}", hint)
        return value


def _value(node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        try:
            return plain_scalar(node)
        except ValueError as error:
            raise _refused(node, str(error)) from None
    if node.tag not in PLAIN_TAGS:
        raise _refused(node, f"the tag {node.tag} is not taken")
    if isinstance(node, yaml.SequenceNode):
        return [_value(each) for each in node.value]
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(key_node, "a key must be a word")
        key = _value(key_node)
        if key in result:
            raise _refused(key_node, f"the key {shown(key)} repeats")
        result[key] = _value(value_node)
    return result


def _refused(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
