"""The gallery: one file, every picture once, reachable without a script, named for those who do not see it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from pvtctl.views.figure import new_figure, save
from pvtctl.views.report import GalleryEntry, write_gallery


def test_a_page_of_its_own_with_ways_between_the_pictures(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(photo)
    chart = save(new_figure(2, 2), tmp_path / "chart.svg")
    entries = [
        GalleryEntry("a <photo>", "of 7 & 5", photo),
        GalleryEntry("a chart", "", chart, alt="an empty chart"),
        GalleryEntry("not drawn", "", tmp_path / "missing.png"),
    ]
    page = write_gallery(tmp_path / "index.html", "Things & more", "seen", entries).read_text()
    assert page.count("<img ") == 2
    assert page.count("data:image/png;base64,") == page.count("data:image/svg+xml;base64,") == 1
    assert not re.search(r"<script|https?://[^\"]*\.(js|css)|<link", page)
    assert 'alt="a &lt;photo&gt;. of 7 &amp; 5"' in page
    assert 'alt="an empty chart"' in page
    links = set(re.findall(r'href="#(picture-\d)"', page))
    assert links == set(re.findall(r'id="(picture-\d)"', page)) == {"picture-1", "picture-2"}
    assert "2 pictures." in page


def test_a_page_without_pictures_says_so(tmp_path: Path) -> None:
    assert "There are no pictures." in write_gallery(tmp_path / "index.html", "None", "", []).read_text()
