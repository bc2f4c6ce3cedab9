"""Tables as CSV and Markdown: whatever is in a name, a row stays one line and a cell one cell."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pvtctl.io.files import write_text
from pvtctl.io.names import shown

_FORMULA = re.compile(r"^(?=[=@]|[+-].*[(!|])")
"""Text that a spreadsheet would compute; numbers, `-` and ranges such as `-1 to +2` are not."""
_MARKUP = re.compile(r"[\\|<*&`~]|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for the end of a cell, HTML, code, emphasis or a link; underscores within a word are none."""


class Strong(str):
    """A table cell in bold."""


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows (the first are the headings) as CSV, one line each.

    Hidden characters of names become escapes; an apostrophe before a formula keeps spreadsheets from computing it.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [_FORMULA.sub("'", shown(cell, most=None)) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write `csv_text` to a file."""
    write_text(path, csv_text(rows))
    return path


def markdown_line(text: object) -> str:
    """Text on one line of Markdown, without any effect of the markup in it."""
    return _MARKUP.sub(r"\\\g<0>", shown(text, most=None))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, texts: int | None = None) -> str:
    """A Markdown table; the first `texts` columns (None: all) are text, the others numbers. `Strong` cells are bold."""
    texts = len(columns) if texts is None else texts
    marks = ["---"] * texts + ["---:"] * (len(columns) - texts)
    lines = [
        [f"**{markdown_line(cell)}**" if isinstance(cell, Strong) else markdown_line(cell) for cell in row]
        for row in (columns, *rows)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], marks, *lines[1:]))
