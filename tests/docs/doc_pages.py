"""README.md and docs/*.md taken apart: blocks, commands in text, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("bash", "sh", "console")
"""`bash` and `sh`: every line is a command; `console`: those after `$`, the others are what they print."""
OTHER = ("python", "text", "toml", "yaml")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment right above it: `run`, `run (COMMAND WORDS)`, `compiled: REASON`."""

    page: Path
    kind: str
    text: str
    mark: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.mark == "run" or self.mark.startswith("run ")

    @property
    def added(self) -> tuple[str, str] | None:
        """`run (pretrain --profile smoke)`: words that make a command quick when the block is executed."""
        found = re.fullmatch(r"run \((\w+) (.*)\)", self.mark)
        return (found[1], found[2]) if found else None

    def lines(self) -> list[str]:
        """Its commands, one a line, continued lines joined."""
        text = self.text
        if self.kind == "console":
            text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
        return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


@dataclass(frozen=True)
class Command:
    """One call of pvtctl, without the program's name."""

    where: str
    words: list[str] = field(default_factory=list)
    whole: bool = True
    """Not only mentioned: nothing that it needs may be missing."""

    def __str__(self) -> str:
        return f"{self.where}: pvtctl {' '.join(self.words)}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            found["kind"].strip(),
            found["text"],
            (found["mark"] or "").strip(),
            text[: found.start()].count("\n") + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


def prose_of(page: Path) -> str:
    return re.sub(_BLOCK, "", page.read_text(encoding="utf-8"))


def commands_of(page: Path) -> Iterator[Command]:
    """All calls of pvtctl on a page: in its blocks, and in its text and tables."""
    for block in blocks_of(page):
        if block.kind in SHELL:
            for line in block.lines():
                for words in programs(line):
                    if (own := own_words(words)) is not None:
                        yield Command(str(block), own)
    for code in _INLINE.findall(prose_of(page)):
        for words in programs(" ".join(code.split())):
            if (own := own_words(words)) is not None:
                yield Command(page.name, [word for word in own if word != "..."], whole=False)


def programs(line: str) -> list[list[str]]:
    """The words of each program that a line of shell starts; variables that are set before it are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    try:
        for token in lexer:
            if set(token) <= set("();<>|&"):
                found.append(["("] if token in (">", "<") else [])
            elif found[-1] or not re.fullmatch(r"[A-Z_]+=\S*", token):
                found[-1].append(token)
    except ValueError:  # a quote that is none: text, not shell
        return []
    return [words for words in found if words and words[0] not in ("(", "$")]


def own_words(words: list[str]) -> list[str] | None:
    """What follows `pvtctl`, called as itself or as `-m pvtctl`; None for other programs."""
    if words[0] == "pvtctl":
        return words[1:]
    at = next((at for at in range(1, len(words)) if words[at - 1 : at + 1] == ["-m", "pvtctl"]), None)
    return words[at + 1 :] if at is not None else None


def anchors_of(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[tuple[str, str]]:
    """(file, anchor) of each link and picture that leads to no other host."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    inside = [target for target in found if not re.match(r"\w+:", target)]
    return [(target.partition("#")[0], target.partition("#")[2]) for target in inside]
