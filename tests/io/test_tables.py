"""Tables with names of others: as CSV, as Markdown, and as titles of progress bars and HTML pages."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.progress import Task, TaskID

from pvtctl.cli._models import TableFormat, print_rows
from pvtctl.io.console import progress_bars
from pvtctl.io.names import shown
from pvtctl.io.tables import Strong, csv_text, markdown_line, markdown_table
from pvtctl.views.report import GalleryEntry, Report, ReportTable, write_gallery, write_report

EXAMPLES = settings(derandomize=True, database=None, deadline=None, max_examples=50)
names = st.text(st.sampled_from("a_ |\\*`<>&[]()~'\"=@,;\n\r\t\x1b\u202e\udce9é#-+!"), max_size=12)
HOSTILE = 'a|b\n"c",[bold]\x1b[2J\u202e</td>'


@EXAMPLES
@given(st.lists(names, min_size=2, max_size=2))
@example(["a\\", "|"])
@example(["&lt;b&gt;", "[x](http://a.b)"])
def test_a_cell_of_markdown_is_shown_as_it_is(cells: list[str]) -> None:
    page = MarkdownIt().enable("table").render(markdown_table(["x", "y"], [cells]))
    found = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    assert [unescape(cell) for cell in found] == [shown(cell).strip(" ") for cell in cells]
    assert page.count("<tr>") == 2


def test_bold_cells_and_columns_of_numbers() -> None:
    lines = markdown_table(["model", "AP"], [["__init__", Strong("1*")]], texts=1).splitlines()
    assert lines == ["| model | AP |", "| --- | ---: |", "| \\_\\_init\\_\\_ | **1\\*** |"]
    assert markdown_line("pvt_v2_b0\n# x") == "pvt_v2_b0\\\\x0a# x"


@EXAMPLES
@given(st.lists(names, min_size=1, max_size=4))
def test_a_row_of_csv_is_one_line_and_comes_back(cells: list[str]) -> None:
    text = csv_text([cells])
    assert len(text.splitlines()) == 1
    (found,) = csv.reader(io.StringIO(text))
    assert [cell.removeprefix("'") for cell in found] == [shown(cell).removeprefix("'") for cell in cells]
    assert not any(cell.startswith(("=", "@")) for cell in found)


def test_only_formulas_are_marked() -> None:
    plain = ["-", "-1.2", "+0.3 %", "-1.2 to +3.4", "+1", "a=b", "-fold", ""]
    formulas = ["=1+1", "@SUM(A1)", "-2+cmd|' /C calc'!A0", "+HYPERLINK(1)"]
    (found,) = csv.reader(io.StringIO(csv_text([[*plain, *formulas, -1.5, None]])))
    assert found == [*plain, *(f"'{cell}" for cell in formulas), "-1.5", ""]


@pytest.mark.parametrize(("form", "lines"), [(TableFormat.csv, 2), (TableFormat.markdown, 3)])
def test_commands_print_a_line_per_model(form: TableFormat, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(form, ["backbone", "params"], [[HOSTILE, 1]], texts=1)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == lines
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize("name", ["[bold]red[/bold]", "[/red]"])
def test_titles_of_progress_bars_are_no_markup(name: str) -> None:
    task = Task(TaskID(0), name, 1, 0, _get_time=float)
    assert str(progress_bars().columns[0](task)) == name


def test_html_shows_hidden_characters(tmp_path: Path) -> None:
    report = Report(HOSTILE, HOSTILE, [HOSTILE], [ReportTable(HOSTILE, [HOSTILE], [[HOSTILE]], notes=[HOSTILE])])
    gallery = write_gallery(tmp_path / "g.html", HOSTILE, HOSTILE, [GalleryEntry(HOSTILE, HOSTILE, tmp_path / "x")])
    for page in (write_report(tmp_path / "r.html", report), gallery):
        text = page.read_text(encoding="utf-8")
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "c&quot;,[bold]\\x1b[2J\\u202e&lt;/td&gt;" in text
