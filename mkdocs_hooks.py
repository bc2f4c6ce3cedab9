"""Hooks of the documentation site: README.md is its home page, CHANGELOG.md a page of it.

Both stay at the top, where readers and packaging tools look for them; here their links are made relative to docs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

TOP_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are kept outside of docs/."""
    from mkdocs.structure.files import File

    top = Path(config.config_file_path).parent
    for source, page in TOP_PAGES.items():
        files.append(File.generated(config, page, content=from_top((top / source).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pages below docs/ link to README.md as `../README.md`, which is right on GitHub."""
    for source, page in TOP_PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown


def from_top(markdown: str) -> str:
    """Links to `docs/X` become links to `X`."""
    return re.sub(r"(\]\()docs/", r"\1", markdown)
