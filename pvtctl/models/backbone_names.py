"""Names of backbones: `NAME`, `NAME@WIDTH`, `NAME+option=value`, or all of it: `pvt_small@0.5+sr_ratios=4,2,1,1`. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pvtctl.errors import UsageError

TIMM_PREFIX = "timm:"
WIDEST = 8
"""Largest width factor."""
_OPTION = re.compile(r"\+(?=[A-Za-z_]\w*=)")
_NEXT_NAME = re.compile(r",(?!\s*[-.\d])(?![^\[]*\])")
"""The commas of `A,B` that separate names: those in an option's list are before numbers, or inside of [ ]."""


class BackboneName(NamedTuple):
    """The parts of a backbone's name."""

    name: str
    """Of the registry, or `timm:NAME`."""
    width: float
    """Factor on all widths."""
    options: dict[str, Any]
    """The options that differ from the named model's, as plain JSON values."""


def split_name(text: str) -> BackboneName:
    """The parts of `text`. Raises UsageError for a width out of range and an option that is named twice.

    >>> split_name("pvt_small@0.5+sr_ratios=4,2,1,1")
    BackboneName(name='pvt_small', width=0.5, options={'sr_ratios': [4, 2, 1, 1]})
    """
    first, *rest = _OPTION.split(text)
    options: dict[str, Any] = {}
    for each in rest:
        key, _, value = each.partition("=")
        if key in options:
            raise UsageError(f"{text}: {key} is said twice", f"+{key}=VALUE once")
        options[key] = _value(value)
    name, at, factor = first.rpartition("@")
    if not at or first.startswith(TIMM_PREFIX):  # timm's own names never have one, and hubs' may
        return BackboneName(first, 1.0, options)
    return BackboneName(name, _width(first, name, factor), options)


def _width(text: str, name: str, factor: str) -> float:
    try:
        width = float(factor)
    except ValueError:
        width = math.nan
    if not 0 < width <= WIDEST:
        raise UsageError(
            f"{text}: {factor!r} is not a width factor", f"use 0 < F <= {WIDEST}, such as {name or 'pvt_small'}@0.25"
        )
    return width


def join_name(name: str, width: float = 1.0, options: Mapping[str, Any] | None = None) -> str:
    """The inverse of `split_name`; option values are plain JSON values.

    >>> join_name("pvt_v2_b0", 2, {"depths": [2, 2, 4, 2], "conv_ffn": False})
    'pvt_v2_b0@2+depths=2,2,4,2+conv_ffn=false'
    """
    scaled = name if width == 1 else f"{name}@{width:g}"
    return "".join([scaled, *(f"+{key}={value_text(value)}" for key, value in (options or {}).items())])


def timm_name(backbone: str) -> str:
    """`timm:NAME` of a backbone, which timm calls by the same name; without width and options.

    >>> timm_name("pvt_v2_b2@0.5")
    'timm:pvt_v2_b2'
    """
    return TIMM_PREFIX + split_name(backbone.removeprefix(TIMM_PREFIX)).name


def split_list(text: str) -> list[str]:
    """The names in `A,B`; a comma before a number belongs to an option's list."""
    return [name.strip() for name in _NEXT_NAME.split(text)]


def _value(text: str) -> Any:
    """`8,4,2,1` is a list, `true` and `0.5` are JSON values, anything else is text."""
    for document in (text, f"[{text}]") if text else ():
        try:
            return json.loads(document)
        except (ValueError, RecursionError):
            continue
    return text


def value_text(value: Any) -> str:
    """A JSON value as it is written in a name: `8,4,2,1`, `true`, `word`."""
    if isinstance(value, list) and len(value) > 1 and all(type(each) in (int, float) for each in value):
        return ",".join(map(json.dumps, value))
    if isinstance(value, str) and _value(value) == value and not re.search(r"[+,\[\]\s]", value):
        return value
    return _OPTION.sub(r"\\u002b", json.dumps(value, separators=(",", ":")))  # a `+` that would begin another option
