"""The door for files that others wrote: whatever is wrong with one becomes `BadFile`, one line that names the file.

Use `read_json`, `read_plain_yaml` (`pvtctl.io.plain_yaml`) and `read_xml` for whole documents, `open_foreign` or
`read_foreign` for bytes, and put the code that makes data of them into `with foreign(path):`. Loads without torch.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.allocator import without_collection
from pvtctl.io.names import shown

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_DOCUMENT = 64 << 20
"""Largest text document in bytes, where the caller expects no larger one."""
MAX_NESTING = 100
"""Deepest nesting of lists and objects in a JSON or XML document."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class BadFile(UsageError):
    """A file that cannot be used: `reason` says why, `line` (from 1) where, if it is known."""

    def __init__(self, path: object, reason: str, hint: str | None = None, *, line: int | None = None) -> None:
        place = shown(path, most=1000) if line is None else f"{shown(path, most=1000)}:{line}"
        super().__init__(f"{place} {reason}", hint)
        self.path, self.reason, self.line = path, reason, line


@contextmanager
def foreign(path: object, hint: str | None = None) -> Iterator[None]:
    """Turn any exception inside into `BadFile` of `path`; a `PvtctlError` passes.

    For the few places where bytes of others become data: parsers raise more than they document. Keep the code inside
    short, as a mistake of pvtctl there would be blamed on the file; what merely writes or computes does not belong there.

    Args:
        path: The file, or another name of the source, for the message.
        hint: What the user can do.
    """
    try:
        yield
    except PvtctlError:
        raise
    except Exception as error:
        raise BadFile(path, reason_of(error), hint) from error


def reason_of(error: Exception) -> str:
    """What an exception says of the file that was read: a predicate such as `cannot be read: Permission denied`."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, RecursionError):
        return "is nested too deep"
    if isinstance(error, UnicodeError):
        return "is not UTF-8 text"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's is a RuntimeError
        return "does not fit into memory"
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    said = str(error).strip().splitlines()
    return f"is damaged ({shown(said[0], most=120) if said else type(error).__name__})"


def open_foreign(path: Path | str, hint: str | None = None) -> BinaryIO:
    """Open a regular file to read bytes. Raises BadFile for anything else: a named pipe is refused, not waited for."""
    with foreign(path, hint):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if (what := _special(os.fstat(descriptor).st_mode)) is not None:
                raise BadFile(path, f"is {what}, not a file", hint)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise


def require_regular(path: Path | str) -> None:
    """Raise BadFile unless `path` is a file (or a link to one); for libraries that open files themselves."""
    with foreign(path):
        if (what := _special(Path(path).stat().st_mode)) is not None:
            raise BadFile(path, f"is {what}, not a file")


def require_folder(path: Path | str, hint: str | None = None, kind: str = "data folder") -> None:
    """Raise UsageError unless `path` is a folder (or a link to one)."""
    if not Path(path).is_dir():
        raise UsageError(found_instead(path, "a folder") or f"no {kind} {path}", hint)


def found_instead(path: Path | str, wanted: str) -> str | None:
    """What is at `path`, as a sentence, where `wanted` (`a folder`) is not; None if there is nothing."""
    if not os.path.lexists(path):
        return None
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:  # a link to nothing, or to itself
        return f"{path} {reason_of(error)}"
    return f"{path} is {_special(mode) or 'a file'}, not {wanted}"


def _special(mode: int) -> str | None:
    """What a file that is not a regular one is."""
    if stat.S_ISREG(mode):
        return None
    return next((what for is_it, what in _KINDS if is_it(mode)), "a special file")


def read_foreign(path: Path | str, *, most: int | None = MAX_DOCUMENT, hint: str | None = None) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises BadFile, also if it cannot be read."""
    with foreign(path, hint), open_foreign(path, hint) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise BadFile(path, f"is too large: {size:,} bytes, at most {most:,} are expected here", hint)
        return file.read()


def read_text(path: Path | str, *, most: int | None = MAX_DOCUMENT, hint: str | None = None) -> str:
    """The text of a UTF-8 file, without its byte order mark. Raises BadFile, with the line that is not UTF-8."""
    raw = read_foreign(path, most=most, hint=hint)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadFile(path, "is not UTF-8 text", hint or "save the file as UTF-8", line=line) from error


def read_json(
    path: Path | str, kind: type | None = None, *, most: int | None = MAX_DOCUMENT, hint: str | None = None
) -> Any:
    """The value of a JSON file.

    Args:
        kind: `dict` or `list`: what the document must be; None for any.
        most: Largest file in bytes; None for any.

    Raises:
        BadFile: The file cannot be read, is too large, not UTF-8, not JSON, nested deeper than MAX_NESTING, or its value is
            not of `kind`.
    """
    return parse_json(read_foreign(path, most=most, hint=hint), path, kind, hint=hint)


def read_facts(path: Path | str, *, most: int | None = MAX_DOCUMENT) -> dict[str, Any]:
    """The object of a JSON file that only describes; empty if it is missing, damaged, or something else."""
    with suppress(BadFile):
        return dict(read_json(path, dict, most=most))
    return {}


def parse_json(data: bytes | str, source: object, kind: type | None = None, *, hint: str | None = None) -> Any:
    """The value of JSON text; `source` names it in messages. Raises BadFile as `read_json` does."""
    with foreign(source, hint), without_collection():
        value = json.loads(data)
        if _nested_deep(data, value):
            raise RecursionError
        if kind is not None and not isinstance(value, kind):
            raise BadFile(source, f"is not a JSON {'object' if kind is dict else 'list'}", hint)
        return value


def _nested_deep(data: bytes | str, value: Any) -> bool:
    """Whether JSON is nested deeper than MAX_NESTING: what is parsed must not exhaust the stack of its readers.

    The brackets alone tell, a pass over them per level; where texts hold brackets too, the values are walked.
    """
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    left = raw.translate(None, bytes(set(range(256)) - set(b"[]{}")))
    for _ in range(MAX_NESTING):
        before = len(left)
        left = left.replace(b"[]", b"").replace(b"{}", b"")
        if not left:
            return False
        if len(left) == before:
            break
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def read_xml(path: Path | str, *, most: int | None = MAX_DOCUMENT) -> tuple[Element, dict[Element, int]]:
    """(root, line of each element) of an XML file.

    Document types are refused: no annotation needs one, and entities defined there can grow without end or read files.

    Raises:
        BadFile: The file cannot be read, is too large, not XML, in an unknown encoding or nested too deep.
    """
    from xml.etree.ElementTree import TreeBuilder
    from xml.parsers import expat

    data = read_foreign(path, most=most)
    parser, builder = expat.ParserCreate(), TreeBuilder()
    lines: dict[Element, int] = {}
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_NESTING:
            raise BadFile(path, "is nested too deep", line=parser.CurrentLineNumber)
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise BadFile(path, "has a document type (DOCTYPE), which is not allowed here", line=parser.CurrentLineNumber)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    with foreign(path):
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise BadFile(path, f"is not valid XML: {expat.ErrorString(error.code)}", line=error.lineno) from error
        except (LookupError, ValueError) as error:
            raise BadFile(path, f"is in an encoding that cannot be read: {shown(error)}", line=1) from error
        return builder.close(), lines


def walk_files(
    root: Path | str,
    skipped: Callable[[Path, str], None],
    *,
    suffixes: tuple[str, ...] = (),
    follow: bool = False,
) -> Iterator[Path]:
    """The regular files in a folder and below it, sorted by path, without hidden ones. A link to a file is one.

    Args:
        skipped: Called with each entry that is left out because it cannot be read or is no file (a named pipe, a socket,
            a broken link), and the reason; only entries that have one of the suffixes, and folders. The walk continues.
        suffixes: Only names that end so, in any case; empty for all.
        follow: Go into linked folders too, each place once.
    """
    seen: set[tuple[int, int]] = set()
    ahead: list[tuple[Path, os.DirEntry[str] | None]] = [(Path(root), None)]
    while ahead:
        path, entry = ahead.pop()
        try:
            if entry is not None and not entry.is_dir(follow_symlinks=follow):
                if not entry.is_file(follow_symlinks=False):
                    require_regular(path)
                yield path
                continue
            about = path.stat()
            if follow and (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(path) as listed:
                inside = sorted(listed, key=lambda each: each.name, reverse=True)
            for each in inside:
                wanted = not suffixes or each.name.lower().endswith(suffixes) or each.is_dir(follow_symlinks=follow)
                if wanted and not each.name.startswith("."):
                    ahead.append((path / each.name, each))
        except BadFile as error:
            skipped(path, error.reason)
        except OSError as error:
            skipped(path, reason_of(error))
