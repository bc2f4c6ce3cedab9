"""A task has one home: outside of it, and of recipes, nothing asks which task it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pvtctl.tasks.registry import TASK_SPECS

HOMES = {"tasks", "recipe"}
TASK_CLASSES = {
    f"{task}{kind}"
    for task in ("Classification", "Detection", "Segmentation", "Depth", "Dense")
    for kind in ("Task", "Dataset")
}


def compared_names(tree: ast.AST) -> Iterator[int]:
    """Lines where a task's name is compared, or matched by `case`."""
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        if any(isinstance(side, ast.Constant) and side.value in TASK_SPECS for side in sides):
            yield node.lineno


def asked_classes(tree: ast.AST) -> Iterator[int]:
    """Lines where something is looked at for being a task, or the data of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name) and node.cls.id in TASK_CLASSES:
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            names = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            if names & TASK_CLASSES:
                yield node.lineno


def test_no_tasks_name_is_compared_outside_of_its_home(modules: dict[Path, ast.Module]) -> None:
    found = []
    for inner, tree in modules.items():
        if inner.parts[0] in HOMES:
            continue
        found += [f"{inner}:{line}" for line in (*compared_names(tree), *asked_classes(tree))]
    assert not found, "ask `task_spec(name)` or `spec_of(recipe)`, and give `TaskSpec` what is missing"
