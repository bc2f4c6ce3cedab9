"""URLs of data in object storage, and how what is secret in them stays out of everything that is written.

A recipe holds a URL without its secrets, user:password and the query (which may be a signature or a token), each replaced
by `***`. What they were is remembered by this process and the processes that it starts, and nowhere else.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import urllib.parse
from collections.abc import Iterator

from pvtctl.errors import UsageError

_HIDDEN = "***"
_REMEMBERED = "_PVTCTL_URLS"
"""Environment variable with the whole URLs, by the shown ones."""
_URL = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<user>[^\s/?#'\"]*@)?(?P<place>[^\s?#'\"]*)(?P<query>\?[^\s'\"]*)?"
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_SHARDS = 100_000


def is_url(text: object) -> bool:
    """Whether this is a URL, and not the path of a file."""
    found = _URL.match(text) if isinstance(text, str) else None
    return found is not None and bool(found["place"].strip("/"))


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/folder`."""
    return url.partition("://")[0].lower()


def require_server(url: str) -> None:
    """Raise UsageError for a web address that names no server: without a host, or with a port that is no number."""
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.scheme not in ("http", "https") or bool(parts.hostname and parts.port != 0)
    except ValueError:
        named = False
    if not named:
        raise UsageError(
            f"{without_secrets(url)} names no server", "write it as https://HOST/... or https://HOST:PORT/..."
        )


def without_secrets(text: str) -> str:
    """The text with `***` for user, password and query of every URL in it."""

    def shown(match: re.Match[str]) -> str:
        user = f"{_HIDDEN}@" if match["user"] else ""
        return f"{match['scheme']}{user}{match['place']}{'?' + _HIDDEN if match['query'] else ''}"

    return _URL.sub(shown, text)


def keep_secrets(text: str) -> str:
    """`without_secrets` of a URL, which `with_secrets` undoes in this process and those that it starts."""
    shown = without_secrets(text)
    if shown != text:
        os.environ[_REMEMBERED] = json.dumps(_remembered() | {shown: text})
    return shown


def with_secrets(url: str) -> str:
    """The whole URL. Raises UsageError if it was read from a file, which does not have its secrets."""
    if _HIDDEN not in url:
        return url
    whole = _remembered().get(url)
    if whole is None:
        raise UsageError(
            f"{url} was written without its user, password or query",
            "give the whole URL again with --data URL; a run is resumed with it as it was",
        )
    return whole


def _remembered() -> dict[str, str]:
    known: dict[str, str] = json.loads(os.environ.get(_REMEMBERED, "{}"))
    return known


def below(root: str, name: str) -> str:
    """The URL of a name below another URL, with the query of that one."""
    base, mark, query = root.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def bare(url: str) -> str:
    """The URL without user, password and query: the same file has the same one, however it is signed."""
    match = _URL.match(url)
    assert match is not None
    return match["scheme"] + match["place"]


def expanded(pattern: str) -> list[str]:
    """The names that braces stand for: `{000..099}` counts, with as many digits, and `{a,b}` lists.

    >>> expanded("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    parts = _BRACES.split(pattern)
    texts, choices = parts[::2], [list(_choices(inside, pattern)) for inside in parts[1::2]]
    count = 1
    for each in choices:
        count *= len(each)
    if count > MOST_SHARDS:
        raise UsageError(f"{pattern} stands for {count:,} files", f"at most {MOST_SHARDS:,}")
    return [
        texts[0] + "".join(word for pair in zip(picked, texts[1:], strict=True) for word in pair)
        for picked in itertools.product(*choices)
    ]


def _choices(inside: str, pattern: str) -> Iterator[str]:
    match = _RANGE.fullmatch(inside)
    if match is None:
        if "," not in inside:
            raise UsageError(f"{pattern}: {{{inside}}} stands for nothing", "write {000..099} or {a,b}")
        yield from inside.split(",")
        return
    first, last = int(match[1]), int(match[2])
    if last < first or last - first >= MOST_SHARDS:
        raise UsageError(
            f"{pattern}: {{{inside}}} counts to no end", f"from low to high, at most {MOST_SHARDS:,} files"
        )
    digits = len(match[1]) if len(match[1]) > 1 else 0
    for number in range(first, last + 1):
        yield f"{number:0{digits}d}" if digits else str(number)
