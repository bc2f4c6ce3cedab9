"""Seeded damage: to bytes, to text, and to values of JSON and YAML."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
ODD_TEXTS = [
    "",
    " ",
    ESCAPE,
    "a\nb",
    "a\rb",
    "\u202eabc",
    "\ud800",
    "\x00",
    "ü" * 300,
    "x" * 5000,
    "../../../../etc/passwd",
    "/dev/zero",
    "/",
    ".",
    "a/b\\c",
    "-1",
    "1e999",
    "nan",
    "0x" + "f" * 5000,
    "9" * 400,
    "<script>alert(1)</script>",
    "[bold red]x[/]",
    "%s {} {0.__class__}",
    "!!python/object:os.system",
    "null",
    "2001-99-99",
]
ODD_NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 10**30, 10**400, -(10**9), 0.5, 1e308, -1e308, 1e-320]
NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]


def nested(depth: int, kind: str = "list") -> Any:
    """A value of that depth."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def odd_value(rng: random.Random) -> Any:
    """A value that is hardly ever right."""
    pick = rng.randrange(12)
    if pick < 4:
        return rng.choice(ODD_TEXTS)
    if pick < 7:
        return rng.choice(ODD_NUMBERS)
    simple: list[Any] = [
        None,
        True,
        False,
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": 1},
        [1, 2, 3],
        ["a"],
        list(range(2000)),
    ]
    if pick < 10:
        return copy.deepcopy(rng.choice([*simple, *NOT_NUMBERS]))
    return nested(rng.choice([3, 60, 900]), rng.choice(["list", "dict"]))


def _places(value: Any, found: list[tuple[Any, Any]], limit: int = 4000) -> None:
    """(container, key) of all values inside, breadth first."""
    queue = [value]
    while queue and len(found) < limit:
        inside = queue.pop(0)
        pairs = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
        for key, each in list(pairs):
            found.append((inside, key))
            queue.append(each)


def damage_value(value: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, removed, repeated or renamed; rarely another value altogether."""
    if rng.random() < 0.03:
        return odd_value(rng)
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places: list[tuple[Any, Any]] = []
        _places(value, places)
        if not places:
            return odd_value(rng)
        holder, key = rng.choice(places)
        pick = rng.randrange(8)
        if pick < 4:
            holder[key] = odd_value(rng)
        elif pick == 4:
            del holder[key]
        elif pick == 5 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        elif pick == 5:
            holder[rng.choice(ODD_TEXTS)] = holder.pop(key)
        elif pick == 6 and isinstance(holder[key], int | float):
            holder[key] = rng.choice([-holder[key], holder[key] * 1000, holder[key] + 0.5, str(holder[key])])
        else:
            other, at = rng.choice(places)
            if at in other if isinstance(other, dict) else at < len(other):
                holder[key] = copy.deepcopy(other[at])
    return value


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, a cut, zeros, other bytes, a part twice, text around it ..."""
    if not data:
        return rng.randbytes(20)
    out = bytearray(data)
    at = rng.randrange(len(out))
    end = min(len(out), at + rng.choice([1, 4, 64, 4096]))
    pick = rng.randrange(11)
    if pick < 3:  # a header is where most is decided
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(min(len(out), rng.choice([32, 256, len(out)])))
            out[place] ^= 1 << rng.randrange(8)
    elif pick == 3:
        del out[at:]
    elif pick == 4:
        out[at:end] = bytes(end - at)
    elif pick == 5:
        out[at:end] = rng.randbytes(end - at)
    elif pick == 6:
        out[at:at] = out[at:end]
    elif pick == 7:
        del out[at:end]
    elif pick == 8:
        out += rng.choice([b"\0" * 100, data, b"<html>", rng.randbytes(3000)])
    elif pick == 9:
        out[:0] = rng.choice(
            [b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n", b"\x1f\x8b\x08", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"]
        )
    else:
        out[:] = rng.choice(
            [b"", b"\0", b"\n", b"<!DOCTYPE html><html></html>", b"version https://git-lfs.github.com/spec/v1\n"]
        )
    return bytes(out)


def damage_text(text: str, rng: random.Random) -> bytes:
    """Words and lines replaced, repeated, removed or swapped; other encodings; and all that happens to bytes."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    pick = rng.randrange(10)
    if pick < 3:
        words = lines[at].split(" ")
        words[rng.randrange(len(words))] = rng.choice(
            [*ODD_TEXTS, *map(str, ODD_NUMBERS), "NaN", "[" * 2000, "{a: " * 200]
        )
        lines[at] = " ".join(words)
    elif pick == 3:
        del lines[at]
    elif pick == 4:
        lines.insert(at, rng.choice([*ODD_TEXTS, lines[rng.randrange(len(lines))]]))
    elif pick == 5:
        lines[at] = (
            rng.choice(
                ["\t", "  ", "- ", "? ", "&a ", "*a ", "!!int ", "!!set ", "--- ", "<<: *a ", "%", "'", '"', "|\n"]
            )
            + lines[at]
        )
    elif pick == 6:
        return "\n".join(lines).encode(rng.choice(["utf-16", "utf-32", "utf-7", "cp500"]), "replace")
    elif pick == 7:
        lines.insert(at, "a: &a [x, x, x, x, x, x, x, x, x]")
        lines += [
            f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
            for before, name in zip("abcdef", "bcdefg", strict=True)
        ]
    else:
        return damage_bytes(text.encode("utf-8", "surrogatepass"), rng)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damage_json(text: str, rng: random.Random) -> bytes:
    """The same document with other values, mostly; else other text."""
    if rng.random() < 0.75:
        value = damage_value(json.loads(text), rng)
        return json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        return rng.choice(
            [b"[" * 100_000, b'{"a":' * 100_000, b"[1,]", b"{}", b"[]", b"null", b"1e999", b"NaN", b'"' + b"x" * 10**5]
        )
    return damage_text(text, rng)


Damage = Callable[[str, random.Random], bytes]
