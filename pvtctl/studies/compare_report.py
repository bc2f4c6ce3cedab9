"""Write a comparison as Markdown, CSV, JSON, pictures and one HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pvtctl.errors import UsageError
from pvtctl.io.files import without_nan, write_text
from pvtctl.io.tables import Strong, csv_text, markdown_line, markdown_table
from pvtctl.studies.comparison import Comparison, Row, Subject
from pvtctl.views.report import Report, ReportPicture, ReportTable, write_report

COSTS = {"params": "parameters, M", "macs": "multiply-adds, G", "latency": "latency p50, ms"}
"""Costs that a score can be plotted against."""
_ROWS = {"params": "params", "macs": "macs", "latency": "latency_p50"}


def to_markdown(comparison: Comparison) -> str:
    """The table as Markdown with the best values in bold, and its notes as a list."""
    notes = "".join(f"- {markdown_line(note)}\n" for note in all_notes(comparison))
    return f"{markdown_table(*_table(comparison), texts=1)}\n{notes}"


def _table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns, and rows with the best values in bold."""
    columns = ["", *(subject.label for subject in comparison.subjects)]
    return columns, [
        [row.label, *(Strong(cell) if at in row.best else cell for at, cell in enumerate(row.cells()))]
        for row in comparison.rows
    ]


def to_csv(comparison: Comparison) -> str:
    """The table as CSV, one line per figure, numbers unrounded."""
    columns = ["figure", "label", *(subject.label for subject in comparison.subjects)]
    return csv_text([columns, *([row.name, row.label, *row.values] for row in comparison.rows)])


def to_json(comparison: Comparison) -> str:
    """The output of `--json`; non-finite numbers become null."""
    return json.dumps(without_nan(comparison.to_dict()), indent=2, allow_nan=False) + "\n"


def all_notes(comparison: Comparison) -> list[str]:
    """The notes below the table."""
    return [f"not comparable: {reason}" for reason in comparison.not_comparable] + list(comparison.notes)


def write_comparison(folder: Path, comparison: Comparison, *, against: str | None = None) -> dict[str, Path]:
    """Write compare.html, .md, .csv, .json and scatter.png, .svg into `folder`; `against` selects one panel (COSTS).

    The pictures are left out if fewer than two figures are known. Raises UsageError for an unknown `against`.
    """
    files = {kind: folder / f"compare.{kind}" for kind in ("html", "md", "csv", "json")}
    pictures = _draw(folder, comparison, against)
    write_text(files["md"], f"# {markdown_line(comparison.title)}\n\n{to_markdown(comparison)}")
    write_text(files["csv"], to_csv(comparison))
    write_text(files["json"], to_json(comparison))
    columns, rows = _table(comparison)
    warnings = [f"not comparable: {reason}" for reason in comparison.not_comparable]
    marked = "bold: the best of a row" if any(row.best for row in comparison.rows) else ""
    report = Report(comparison.title, marked, warnings)
    report.parts.append(ReportTable("Side by side", columns, rows, notes=comparison.notes))
    report.parts += [ReportPicture(title, path) for title, path in pictures[:1]]
    write_report(files["html"], report)
    return files | {f"scatter.{path.suffix[1:]}": path for _, path in pictures}


def _draw(folder: Path, comparison: Comparison, against: str | None) -> list[tuple[str, Path]]:
    """Draw the scatter plots; title and file of the SVG and the PNG."""
    from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters

    if against is not None and against not in COSTS:
        raise UsageError(f"no cost {against!r} to draw against", f"one of: {', '.join(COSTS)}")
    known = {row.name: row for row in comparison.rows}
    upright, across = _axes(known, comparison.subjects, against)
    if against is not None and not across:
        raise UsageError(
            f"nothing to draw against {against}: it was not measured, or is on the y axis already",
            f"one of: {', '.join(COSTS)}",
        )
    if upright is None or not across:
        return []
    panels = []
    for row in across:
        points = [
            Point(subject.label, x, y, subject.family, hollow=bool(subject.run and subject.run.status != "finished"))
            for subject, x, y in zip(comparison.subjects, _numbers(row), _numbers(upright), strict=True)
        ]
        if any(math.isfinite(point.x) and math.isfinite(point.y) for point in points):
            panels.append(ScatterPanel(points, row.label, upright.label))
    if not panels:
        return []
    name = upright.label.partition(",")[0]
    name = name if name[1:2].isupper() else f"{name[:1].upper()}{name[1:]}"
    title = f"{name} against {', '.join(panel.xlabel.partition(',')[0] for panel in panels)}"
    title += " (scores not comparable)" if comparison.not_comparable else ""
    return [
        (title, draw_scatters(folder / f"scatter.{kind}", panels, title=title, hollow="not finished"))
        for kind in ("svg", "png")
    ]


def _axes(known: dict[str, Row], subjects: Sequence[Subject], against: str | None) -> tuple[Row | None, list[Row]]:
    """The y axis (the score; for models without runs the time, else the parameters) and the x axes."""
    upright: Row | None = known.get("latency_p50") or known.get("params")
    wanted = ["macs"] if against is None else [against]
    if any(subject.figures for subject in subjects):
        upright = next(iter(known.values()))
        wanted = list(_ROWS) if against is None else [against]
    across = [known[_ROWS[name]] for name in wanted if _ROWS[name] in known]
    return upright, [row for row in across if row is not upright]


def _numbers(row: Row) -> list[float]:
    return [float(value) if isinstance(value, int | float) else math.nan for value in row.values]
