"""Names that others chose (of files, classes, tensors): to bytes for hashes, to text that a terminal can show.

And numbers of things, in words.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that move the cursor, turn the direction of the text, end the line or cannot be encoded."""
_JOINERS = "\u200c\u200d"
"""Format characters that words and emoji need."""


def name_bytes(name: str) -> bytes:
    """The bytes of a name for a hash: its UTF-8; a name that is not UTF-8 on the disk gives the bytes on the disk.

    Unlike `str.encode`, never fails. Unlike `os.fsencode`, does not depend on the locale.

    >>> name_bytes("caf\\udce9")
    b'caf\\xe9'
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, as JSON can write it
        return name.encode("utf-8", "surrogatepass")


def shown(name: object, most: int | None = 200, *, keep: str = "") -> str:
    """A name as text that can be printed or drawn on one line, its hidden characters as escapes, cut to `most` characters.

    Escaped are control characters (line breaks too), those that change the direction of the text, and bytes that are not
    UTF-8.

    Args:
        most: Longest result; the middle of a longer one is left out. None: any length.
        keep: Characters to leave as they are, such as line breaks.

    >>> shown("cat\\x1b[2J\\u202e\\n\\udce9")
    'cat\\\\x1b[2J\\\\u202e\\\\x0a\\\\udce9'
    """
    text = str(name)
    if most is not None and len(text) > most:
        text = f"{text[: most - most // 4 - 3]}...{text[len(text) - most // 4 :]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep else _escaped(char) for char in text)


def plural(number: int, thing: str) -> str:
    """A number of things.

    >>> plural(1, "box"), plural(0, "class"), plural(2, "train image"), plural(3, "query")
    ('1 box', '0 classes', '2 train images', '3 queries')
    """
    if number == 1:
        return f"1 {thing}"
    if thing.endswith(("s", "x", "tch", "sh")):
        return f"{number} {thing}es"
    many = f"{thing[:-1]}ies" if thing.endswith("y") and thing[-2] not in "aeiou" else f"{thing}s"
    return f"{number} {many}"


def with_count(things: str, number: int) -> str:
    """What is said of several things, and of one, with their number: before the first semicolon or colon, if there is one.

    >>> with_count("boxes without area; dropped", 1)
    'boxes without area (1); dropped'
    """
    what = re.split("[;:]", things, maxsplit=1)[0]
    return f"{what} ({number}){things[len(what) :]}"


def _escaped(char: str) -> str:
    if unicodedata.category(char) not in _HIDDEN or char in _JOINERS:
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
