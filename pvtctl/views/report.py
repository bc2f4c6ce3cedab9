"""Reports and galleries: self-contained HTML files with inlined pictures."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pvtctl.io.files import write_text
from pvtctl.io.names import plural, shown
from pvtctl.io.tables import Strong

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.lead { color: #555; margin-top: 0; } p.warn { border-left: 4px solid #D55E00; padding: 0.3rem 0.8rem; background: #fdf3ec; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } td.number, th.number { text-align: right; } td.whole { white-space: nowrap; }
table.dense th, table.dense td { padding: 0.25rem 0.45rem; } table.dense td:last-child { min-width: 8rem; }
table.dense th:first-child:not(.group), table.dense td:first-child { white-space: nowrap; position: sticky; left: 0; background: #fff; }
th.group { border-bottom: 1px solid #888; } th.group:not(:empty) { border-left: 1px solid #ddd; }
div.wide { overflow-x: auto; } p.note { color: #555; font-size: 0.9rem; margin: 0.3rem 0; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; font-size: 13px; }
details > summary { cursor: pointer; font-weight: 600; font-size: 1.05rem; margin-top: 1.2rem; }
"""

# A picture is on the page once. The anchor of its figure (#picture-2) makes that figure cover the page.
_GALLERY_STYLE = """
body { max-width: 1500px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 1.2rem;
  align-items: start; }
.gallery figure { border: 1px solid #ddd; border-radius: 4px; padding: 0.6rem; }
.gallery a { color: #0072B2; } .gallery a:focus-visible { outline: 3px solid #D55E00; }
.gallery .open { display: block; height: 220px; } .gallery .open img { width: 100%; height: 100%; object-fit: contain; }
figcaption { margin-top: 0.4rem; overflow-wrap: anywhere; } figcaption strong { display: block; }
.gallery nav { display: none; }
.gallery figure:target { position: fixed; inset: 0; z-index: 1; overflow: auto; background: #fff; border: 0;
  border-radius: 0; padding: 1rem; }
.gallery figure:target .open { display: inline-block; height: auto; cursor: default; }
.gallery figure:target .open img { width: auto; height: auto; max-width: none; }
.gallery figure:target nav { display: flex; gap: 1.2rem; position: sticky; top: 0; left: 0; background: #fff;
  padding: 0.4rem 0; }
@media print { .gallery figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class ReportTable:
    """A table of text; columns with only numbers and `-` are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()
    """Group headings above the columns, each with its number of columns."""
    notes: Sequence[str] = ()
    """Lines below the table."""


Row = TypeVar("Row")


def worst_first(what: str, rows: list[Row], most: int) -> tuple[str, list[Row]]:
    """Title and rows of a short table of `rows`, which are sorted from the worst on; `what` are `Classes`."""
    few = len(rows) <= most
    return f"{what}, worst first" if few else f"The {most} worst of {len(rows)} {what.lower()}", rows[:most]


def in_percent(value: float) -> str:
    """A fraction in percent with a decimal; `-` for NaN."""
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


@dataclass(frozen=True)
class ReportPicture:
    """A PNG or SVG file, which is inlined."""

    title: str
    path: Path


@dataclass(frozen=True)
class Text:
    """Preformatted text, collapsed until opened."""

    title: str
    text: str


@dataclass
class Report:
    """A page: a title, one line below it, warnings, then parts in order."""

    title: str
    lead: str
    warnings: list[str] = field(default_factory=list)
    parts: list[ReportTable | ReportPicture | Text] = field(default_factory=list)


def write_report(path: Path | str, report: Report) -> Path:
    """Write `report` as one HTML file. Missing pictures are left out."""
    body = [f"<h1>{_escaped(report.title)}</h1>", f'<p class="lead">{_escaped(report.lead)}</p>']
    body += [f'<p class="warn">{_escaped(text)}</p>' for text in report.warnings]
    for part in report.parts:
        match part:
            case ReportTable():
                body.append(_table(part))
            case ReportPicture():
                body.append(_picture(part))
            case Text():
                title, text = _escaped(part.title), _escaped(part.text)
                body.append(f"<details><summary>{title}</summary><pre>{text}</pre></details>")
    return write_page(path, report.title, body)


def write_page(path: Path | str, title: str, body: Sequence[str], style: str = "") -> Path:
    """Write one HTML file with the HTML lines `body`; `style` is CSS added to that of reports."""
    head = f"<title>{_escaped(title)}</title><style>{_STYLE}{style}</style>"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    page = (
        f'<!doctype html>\n<html lang="en"><head>{meta}{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"
    )
    write_text(path, page)
    return Path(path)


def inlined(path: Path) -> str:
    """A picture file (PNG, SVG) as a data URL."""
    kind = "svg+xml" if path.suffix.lower() == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _escaped(text: str) -> str:
    """Text for HTML, hidden characters of names in it as escapes."""
    return html.escape(shown(text, most=None, keep="\n\t"))


def _picture(part: ReportPicture) -> str:
    if not part.path.is_file():
        return ""
    title = _escaped(part.title)
    return f'<h2>{title}</h2><figure><img alt="{title}" src="{inlined(part.path)}"></figure>'


def _table(part: ReportTable) -> str:
    numeric = [bool(part.rows) and all(_is_number(row[at]) for row in part.rows) for at in range(len(part.columns))]
    classes = [' class="number"' if yes else "" for yes in numeric]

    def line(tag: str, cells: Sequence[Any]) -> str:
        inner = (
            f"<{tag}{kind or _whole(str(cell))}>{_text(cell)}</{tag}>"
            for cell, kind in zip(cells, classes, strict=True)
        )
        return f"<tr>{''.join(inner)}</tr>"

    rows = "\n".join(line("td", row) for row in part.rows)
    head = line("th", part.columns)
    if part.groups:
        above = (f'<th class="group" colspan="{width}">{_escaped(label)}</th>' for label, width in part.groups)
        head = f"<tr>{''.join(above)}</tr>{head}"
    kind = ' class="dense"' if part.groups else ""
    table = f'<div class="wide"><table{kind}><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    notes = "".join(f'<p class="note">{_escaped(note)}</p>' for note in part.notes)
    return f"<h2>{_escaped(part.title)}</h2>{table}{notes}"


def _text(cell: Any) -> str:
    text = _escaped(str(cell))
    return f"<b>{text}</b>" if isinstance(cell, Strong) else text


def _whole(cell: str) -> str:
    """Keep `38.2 ± 0.3` and `-1.2 to +3.4` on one line."""
    return ' class="whole"' if re.fullmatch(r"[-+]?[\d.]+ (±|to) [-+]?[\d.]+", cell) else ""


def _is_number(cell: str) -> bool:
    text = str(cell).replace(",", "").removesuffix("%").strip()
    return text == "-" or text.lstrip("-").replace(".", "", 1).isdigit()


@dataclass(frozen=True)
class GalleryEntry:
    """A picture of a gallery."""

    title: str
    caption: str
    """A sentence below the title, or empty."""
    path: Path
    """A PNG or SVG file, which is inlined."""
    alt: str = ""
    """Alternative text; default: title and caption."""


def write_gallery(path: Path | str, title: str, lead: str, entries: Sequence[GalleryEntry]) -> Path:
    """Write one self-contained HTML file of pictures, in the given order; missing files are left out.

    A thumbnail opens at full size, with links to the next and previous picture and back, usable by keyboard.
    """
    there = [entry for entry in entries if entry.path.is_file()]
    count = f"{plural(len(there), 'picture')}. Click one to see it at its full size."
    body = [
        f'<h1 id="top">{_escaped(title)}</h1>',
        f'<p class="lead">{_escaped(lead)}</p>',
        f"<p>{count}</p>" if there else "<p>There are no pictures.</p>",
        '<main class="gallery">',
        *(_figure(entry, number, len(there)) for number, entry in enumerate(there, 1)),
        "</main>",
    ]
    return write_page(path, title, body, _GALLERY_STYLE)


def _figure(entry: GalleryEntry, number: int, last: int) -> str:
    title, caption = _escaped(entry.title), _escaped(entry.caption)
    alt = _escaped(entry.alt or ". ".join(part for part in (entry.title, entry.caption) if part))
    ways = ['<a href="#gallery">Close</a>']
    if number > 1:
        ways.append(f'<a href="#picture-{number - 1}">Previous</a>')
    if number < last:
        ways.append(f'<a href="#picture-{number + 1}">Next</a>')
    return (
        f'<figure id="picture-{number}"><nav aria-label="Pictures">{"".join(ways)}</nav>'
        f'<a class="open" href="#picture-{number}"><img loading="lazy" alt="{alt}" src="{inlined(entry.path)}"></a>'
        f"<figcaption><strong>{title}</strong>{caption}</figcaption></figure>"
    )
