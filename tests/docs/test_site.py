"""The documentation site has every page and every public name. (`mkdocs build --strict` checks the rest, in .ci/run.)"""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import yaml
from doc_pages import ROOT

import pvtctl

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages(entry)]


def test_every_page_is_in_the_navigation_once() -> None:
    files = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(pages(CONFIG["nav"])) == sorted([*files, "index.md", "changelog.md"])


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: pvtctl\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(name for name in pvtctl.__all__ if not name.startswith("_"))


def test_nothing_is_loaded_from_other_hosts() -> None:
    assert CONFIG["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css"} & set(CONFIG)


def test_links_of_the_top_pages_work_on_the_site() -> None:
    hooks = load_hooks()
    assert hooks.from_top("[a](docs/data.md#b) ![c](docs/pictures/d.png)") == "[a](data.md#b) ![c](pictures/d.png)"
    assert hooks.on_page_markdown("[a](../README.md#b)") == "[a](index.md#b)"


def load_hooks() -> Any:
    spec = spec_from_file_location("mkdocs_hooks", ROOT / "mkdocs_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
