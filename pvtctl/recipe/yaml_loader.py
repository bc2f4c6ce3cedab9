"""YAML of recipes: as `pvtctl.io.plain_yaml` reads it, and every key has its line.

Anchors and aliases are errors: use `base:`, rows and profiles instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pvtctl.errors import UsageError
from pvtctl.io.plain_yaml import PLAIN_TAGS, compose, plain_scalar

MAX_BYTES = 1 << 20
MAX_KEYS = 3000
"""Of a file: each that is unknown is compared with all that are known."""

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class SourceMark:
    """Source of a setting: a file and line (from 1), or a command-line option (no line)."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(eq=False)  # what is made of a document is cached by its identity
class Document:
    """A YAML mapping, the source mark of every key by path, and the non-fatal faults."""

    data: dict[str, Any]
    marks: dict[KeyPath, SourceMark]
    faults: list[str] = field(default_factory=list)


def read_yaml(path: Path | str) -> Document:
    """Read a file that holds one YAML mapping.

    Raises UsageError with file and line if the file is missing, too large, not UTF-8 or not YAML. Repeated keys and
    values that no recipe can use (`.inf`, tagged values) are listed in `Document.faults`.
    """
    path = Path(path)
    shown = shown_path(path)
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror}", "pvtctl recipes ls lists the recipes") from error
    if size > MAX_BYTES:
        raise UsageError(f"{shown} is larger than {MAX_BYTES >> 10} KiB", "is this a recipe?")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{shown}:{line}: not UTF-8 text", "save the file as UTF-8") from error
    return parse_yaml(text, shown)


@lru_cache(maxsize=64)  # commands that load all rows read the same text repeatedly
def parse_yaml(text: str, shown: str) -> Document:
    """Like `read_yaml`, from text; `shown` is the file name in messages. The document is cached: do not change it."""
    node = _compose(text, shown)
    document = Document({}, {})
    if node is None:
        raise UsageError(f"{shown} is empty", "pvtctl recipes show imagenet_pvt_v1 prints a recipe to start from")
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{shown}:{node.start_mark.line + 1}: expected `key: value` lines")
    document.data = _Values(document, shown).of(node, ())
    if len(document.marks) > MAX_KEYS:
        raise UsageError(f"{shown} has {len(document.marks):,} keys, more than {MAX_KEYS:,}", "is this a recipe?")
    return document


def parse_value(text: str) -> Any:
    """Parse one YAML value: `1e-4`, `off`, `[0.9, 0.95]`, `{name: sgd}`. Raises UsageError."""
    document = Document({}, {})
    node = _compose(text, "")
    if node is None:
        return None
    value = _Values(document, "").of(node, ())
    if document.faults:
        raise UsageError("; ".join(document.faults))
    return value


def shown_path(path: Path) -> str:
    """`path` for messages: relative to the working directory if below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _compose(text: str, shown: str) -> Any:
    try:
        return compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark and shown else shown or "value"
        problem = error.problem or "not YAML"
        if "'\\t'" in problem:
            raise UsageError(f"{where}: a tab where YAML wants spaces", "indent with spaces only") from error
        if "document" in problem and "another" in problem:
            problem = "more than one document (a second `---`)"
        raise UsageError(f"{where}: {problem}", "see `pvtctl recipes show imagenet_pvt_v1` for the form") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(
            f"{shown or 'value'}:{line}: a character that text files do not hold (#x{ord(text[error.position]):02x})"
        ) from error


class _Values:
    """Python values of YAML nodes; marks and faults go into `document`."""

    def __init__(self, document: Document, shown: str) -> None:
        self.document, self.shown = document, shown

    def of(self, node: Any, at: KeyPath) -> Any:
        if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
            self._fault(node, at, f"the tag {node.tag} is not taken")
        match node:
            case yaml.MappingNode():
                return self._mapping(node, at)
            case yaml.SequenceNode():
                return [self.of(item, (*at, str(index))) for index, item in enumerate(node.value)]
            case _:
                return self._scalar(node, at)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = SourceMark(self.shown, key_node.start_mark.line + 1)
            key = str(key_node.value)
            here = (*at, key)
            if not isinstance(key_node, yaml.ScalarNode):
                self.document.faults.append(f"{'.'.join(at) or 'the file'}: a key must be a word ({mark})")
            elif key in result:
                first = self.document.marks[here].line
                self.document.faults.append(f"{'.'.join(here)}: repeated key ({mark}), first said in line {first}")
            else:
                self.document.marks[here] = mark
                result[key] = self.of(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode, at: KeyPath) -> Any:
        try:
            return plain_scalar(node)
        except ValueError as error:
            self._fault(node, at, str(error))
            return str(node.value)

    def _fault(self, node: Any, at: KeyPath, problem: str) -> None:
        place = f"{'.'.join(at)}: " if at else ""
        where = f" ({self.shown}:{node.start_mark.line + 1})" if self.shown else ""
        self.document.faults.append(f"{place}{problem}{where}")
