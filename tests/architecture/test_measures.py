"""The measures of the layout: they may fall, not grow."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pvtctl

PACKAGE = Path(pvtctl.__file__).parent
MODULES = {path.relative_to(PACKAGE): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
MOST_FILES = 19
MOST_DUMPS = 16
"""Calls of `model_dump`: where settings become JSON for a file, a header or a comparison."""


def test_a_public_name_is_defined_once() -> None:
    files: dict[str, set[str]] = defaultdict(set)
    for path, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                files[node.name].add(str(path))
    twice = {name: sorted(where) for name, where in files.items() if len(where) > 1 and name != "main"}
    assert not twice


def test_no_folder_is_crowded() -> None:
    folder, count = Counter(str(path.parent) for path in MODULES).most_common(1)[0]
    assert count <= MOST_FILES, folder


def test_settings_stay_typed() -> None:
    calls = sum(
        isinstance(node, ast.Attribute) and node.attr == "model_dump"
        for tree in MODULES.values()
        for node in ast.walk(tree)
    )
    assert calls <= MOST_DUMPS
