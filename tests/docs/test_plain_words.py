"""Documentation says things in the field's standard terms: phrases that readers stumbled over are kept out.

To add one, append a line to WORDS: a pattern and what to write instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from doc_pages import PAGES, ROOT, blocks_of

PACKAGE_IS_REWRITTEN = True
"""Whether docstrings and messages of pvtctl/ are held to the same list: set it to True once they are rewritten."""

LOCATION = "in|at|on|below|under|above|beside|between|outside|inside|beyond|there|where"
WORDS = [
    (r"told", "stated, reported, detected, passed"),
    (r"(?-i:is none)|none of (?:ours|theirs|its)", "is not a ..., does not have a ..."),
    (r"oftener", "more often"),
    (r"of one's own", "your own ..."),
    (r"of (?:ours|yours|theirs)", "pvtctl's, your, third-party"),
    (r"referee", "reference, reference implementation"),
    (r"talk(?:s|ed)? to|talks?", "logs, messages"),
    (rf"(?:lies?|lay) (?!above 0|below 0)(?:{LOCATION})", "is in, are below, is at"),
    (rf"stands? (?!for)(?:{LOCATION}|over)", "is in, is listed in, is printed above"),
    (r"beside", "next to, with"),
    (r"(?<!ground )(?<!ground-)truth", "ground truth"),
    (r"answer(?:s|ed)?", "prediction, output, result; predicts, returns"),
    (r"run folders?", "run directory"),
    (r"(?:and|the) deviation", "standard deviation"),
    (r"reckoned", "computed, estimated"),
    (r"anew", "again, from scratch"),
    (r"go(?:es)? on|went on", "continues, resumes"),
    (r"beg[iau]ns? from", "starts from"),
    (r"fares?", "compares, performs"),
    (r"learnt", "learned"),
]
"""Pattern of whole words in any case, and the plain alternative."""


class Line(NamedTuple):
    """A line of text and where it is, as `file:line`."""

    where: str
    text: str


def faults(lines: Iterable[Line]) -> list[str]:
    """One entry per phrase found: place, line, the phrase and what to write instead."""
    patterns = [(re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE), plain) for words, plain in WORDS]
    return [
        f"{line.where}: {line.text.strip()}\n    {found[0]!r}: rather {plain}"
        for line in lines
        for pattern, plain in patterns
        for found in pattern.finditer(line.text)
    ]


def lines_of_page(page: Path) -> Iterator[Line]:
    """Text, tables and headings, and the comments in code blocks; not code and not what commands print."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in blocks_of(page):
        start = block.line + (1 if block.mark else 0)
        for at in range(start - 1, start + 1 + block.text.count("\n")):
            _, sign, comment = lines[at].partition("# ")
            lines[at] = comment if sign and block.kind != "text" else ""
    for number, text in enumerate(without_code("\n".join(lines)).splitlines(), 1):
        yield Line(f"{page.relative_to(ROOT)}:{number}", text)


def without_code(text: str) -> str:
    """A text without the names in backticks, whose spelling is the program's; its lines stay where they are."""
    return re.sub(r"`[^`]+`", lambda found: "`...`" + "\n" * found[0].count("\n"), text)


def lines_of_newest_changes() -> Iterator[Line]:
    """CHANGELOG.md up to the second version: the older ones stay as they were published."""
    number_of_versions = 0
    for line in lines_of_page(ROOT / "CHANGELOG.md"):
        number_of_versions += line.text.startswith("## ")
        if number_of_versions < 2:
            yield line


MESSAGE_CALLS = {"UsageError", "PvtctlError", "Fault", "warn", "echo", "print", "say", "log", "Option", "Argument"}
"""Calls whose strings a user reads; those of `raise` are taken whatever is raised."""


def lines_of_source(text: str, where: str) -> Iterator[Line]:
    """Docstrings (of attributes too) and the strings of messages in a Python source."""
    tree = ast.parse(text)
    seen: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            parts: Iterable[ast.AST] = [node.value]
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node.func) in MESSAGE_CALLS):
            parts = ast.walk(node)
        else:
            continue
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in seen:
                seen.add(id(part))
                for number, line in enumerate(without_code(part.value).splitlines(), part.lineno):
                    yield Line(f"{where}:{number}", line)


def _name(function: ast.AST) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def lines_of_package() -> Iterator[Line]:
    for path in sorted((ROOT / "pvtctl").rglob("*.py")):
        yield from lines_of_source(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_plain_words(page: Path) -> None:
    found = faults(lines_of_page(page))
    assert not found, "\n".join(["", *found])


def test_newest_changes_use_plain_words() -> None:
    found = faults(lines_of_newest_changes())
    assert not found, "\n".join(["", *found])


@pytest.mark.skipif(not PACKAGE_IS_REWRITTEN, reason="docstrings and messages of pvtctl/ are not rewritten yet")
def test_docstrings_and_messages_use_plain_words() -> None:
    found = faults(lines_of_package())
    assert not found, "\n".join(["", f"{len(found)} in all", *found])


def test_a_fault_names_place_line_and_alternative() -> None:
    [fault] = faults([Line("a.md:3", "pycocotools is the referee here")])
    assert fault == "a.md:3: pycocotools is the referee here\n    'referee': rather reference, reference implementation"


@pytest.mark.parametrize(
    "text",
    ["the interval lies above 0", "the ground truth and the ground-truth box", "a standard deviation", "bestold"],
)
def test_plain_text_has_no_fault(text: str) -> None:
    assert faults([Line("", text)]) == []


def test_code_is_not_text() -> None:
    page = ROOT / "README.md"
    lines = [line.text for line in lines_of_page(page)]
    assert "detectors return boxes, others label maps or depth" in " ".join(lines), "comments are read"
    assert not any("run.predict(" in line or "┃" in line for line in lines), "code and output are not"


def test_strings_of_source_are_found() -> None:
    source = '''
"""Module."""
NUMBER = 1
"""Attribute."""


def function(path, x: int = option("not a message")):
    """First line.

    Third line."""
    name = "no message"
    if x:
        raise UsageError(f"{path} is wrong", "a hint")
    warn("careful")
'''
    found = {line.text.strip(): line.where for line in lines_of_source(source, "a.py") if line.text.strip()}
    assert found == {
        "Module.": "a.py:2",
        "Attribute.": "a.py:4",
        "First line.": "a.py:8",
        "Third line.": "a.py:10",
        "is wrong": "a.py:13",
        "a hint": "a.py:13",
        "careful": "a.py:14",
    }
