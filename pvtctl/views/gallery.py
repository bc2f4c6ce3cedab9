"""Pictures on one HTML page: thumbnails in a grid that open at full size, without scripts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvtctl.views.report import inlined, write_page

# A picture is on the page once. The anchor of its figure (#picture-2) makes that figure cover the page.
_STYLE = """
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
    count = f"{len(there)} picture{'s' * (len(there) != 1)}. Click one to see it at its full size."
    body = [
        f'<h1 id="top">{html.escape(title)}</h1>',
        f'<p class="lead">{html.escape(lead)}</p>',
        f"<p>{count}</p>" if there else "<p>There are no pictures.</p>",
        '<main class="gallery">',
        *(_figure(entry, number, len(there)) for number, entry in enumerate(there, 1)),
        "</main>",
    ]
    return write_page(path, title, body, _STYLE)


def _figure(entry: GalleryEntry, number: int, last: int) -> str:
    title, caption = html.escape(entry.title), html.escape(entry.caption)
    alt = html.escape(entry.alt or ". ".join(part for part in (entry.title, entry.caption) if part))
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
