"""The measures of the layout: they may fall, not grow."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pvtctl

PACKAGE = Path(pvtctl.__file__).parent
MOST_FILES = 19
MOST_DUMPS = 2
"""Calls of `model_dump`: settings and checkpoint metadata become JSON in one place each."""
MOST_LONG = 4
"""Functions of more than 60 lines."""
MOST_WIDE = 18
"""Functions with more than 8 parameters, outside the command line."""
MOST_LINES = 59_555
"""Lines of the package. Raised by a feature only, never by an edit."""

Trees = dict[Path, ast.Module]


def test_a_public_name_is_defined_once(modules: Trees) -> None:
    files: dict[str, set[str]] = defaultdict(set)
    for path, tree in modules.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                files[node.name].add(str(path))
    twice = {name: sorted(where) for name, where in files.items() if len(where) > 1 and name != "main"}
    assert not twice


def test_a_test_file_has_a_name_of_its_own() -> None:
    """pytest imports them without their folders: of two with one name it collects the first, and fails at the other."""
    names = Counter(path.name for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_folder_is_crowded(modules: Trees) -> None:
    folder, count = Counter(str(path.parent) for path in modules).most_common(1)[0]
    assert count <= MOST_FILES, folder


def test_settings_stay_typed(modules: Trees) -> None:
    calls = sum(
        isinstance(node, ast.Attribute) and node.attr == "model_dump"
        for tree in modules.values()
        for node in ast.walk(tree)
    )
    assert calls <= MOST_DUMPS


def test_functions_are_short_and_take_few_parameters(modules: Trees) -> None:
    long, wide = [], []
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            if (node.end_lineno or 0) - node.lineno > 60:
                long.append(f"{path}:{node.name}")
            if path.parts[0] != "cli" and len(node.args.args) + len(node.args.kwonlyargs) > 8:
                wide.append(f"{path}:{node.name}")
    assert len(long) <= MOST_LONG, long
    assert len(wide) <= MOST_WIDE, wide


def test_the_package_does_not_grow_by_itself(modules: Trees) -> None:
    assert sum((PACKAGE / path).read_text(encoding="utf-8").count("\n") for path in modules) <= MOST_LINES
