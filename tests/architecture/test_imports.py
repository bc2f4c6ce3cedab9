"""Imports point downwards only, and the command line loads no torch until a command needs it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pvtctl.cli.main import COMMANDS
from pvtctl.tasks.registry import TASK_SPECS

GROUND = {"errors", "io", "extensions", "__version__"}
# what each part may import, besides itself and the ground; `tasks` and `models` are looked at folder by folder
ALLOWED = {
    "io": set(),
    "recipe": {
        "models.backbone_names",
        "models.variants",
        "models.parts",
        "models.registry",
        "tasks.registry",
        *(f"tasks.{task}.settings" for task in TASK_SPECS),
    },
    "models.layers": set(),
    "models.losses": {"models.structures", "models.layers"},
    "models.backbones": {
        "models.layers",
        "models.backbone_names",
        "models.variants",
        "models.parts",
        "models.features",
        "models.registry",
    },
    "models.necks": {"models.layers", "models.registry", "models.backbones"},
    "models.heads": {
        "models.layers",
        "models.losses",
        "models.structures",
        "models.necks",
        "models.registry",
        "models.backbones",
    },
    "models": {"models"},
    "data": {"models.structures"},
    "engine": {"recipe", "models.fast_cpu.packed"},
    "weights": {"models", "data.class_names", "data.transforms", "tasks.classes"},
    "cost": {"models"},
    "views": {"models.structures"},
    "tasks.classification": {"models", "data", "weights", "views", "recipe", "cost", "tasks"},
    "tasks.detection": {"models", "data", "weights", "views", "recipe", "cost", "tasks"},
    "tasks.dense": {"models", "data", "weights", "views", "recipe", "cost", "tasks"},
    "tasks.segmentation": {"models", "data", "weights", "views", "recipe", "cost", "tasks", "tasks.dense"},
    "tasks.depth": {
        "models",
        "data",
        "weights",
        "views",
        "recipe",
        "cost",
        "tasks",
        "tasks.dense",
        "tasks.segmentation",
    },
    "tasks": {"models", "data", "weights", "engine", "views", "recipe", "cost", "tasks", "inference"},
    "inference": {"models", "export"},
    "latency": {"models", "data", "cost", "tasks", "inference"},
    "runs": {"models", "data", "weights", "engine", "views", "recipe", "cost", "tasks", "inference"},
    "explain": {"models", "data", "weights", "views", "recipe", "cost", "tasks", "runs"},
    "studies": {"models", "data", "weights", "engine", "views", "recipe", "cost", "latency", "tasks", "runs"},
    "probe": {
        "models",
        "data",
        "weights",
        "engine",
        "views",
        "recipe",
        "cost",
        "latency",
        "tasks",
        "runs",
        "studies",
        "inference",
    },
    "export": {"models", "data", "weights", "cost"},
    "api": {"models", "weights", "engine", "recipe", "runs"},
}
_FOLDERS = {tuple(part.split(".")) for part in ALLOWED}


def part_of(module: str) -> str:
    """The part that a module (without `pvtctl.`) belongs to: `tasks.depth.check` -> `tasks.depth`."""
    words = tuple(module.split("."))
    return ".".join(words[:2] if words[:2] in _FOLDERS else words[:1])


def imported_modules(path: Path, tree: ast.Module) -> set[str]:
    """Modules and names of pvtctl that the module imports, anywhere in it, without `pvtctl.`."""
    modules = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        modules |= {name.removeprefix("pvtctl.") for name in names if name.startswith("pvtctl.")}
    return modules


def may_import(part: str, module: str) -> bool:
    """Whether the rules let `part` import `module`. `tasks` alone stands for its files, without its folders' data."""
    whole = part_of(module)
    allowed = {part, *ALLOWED[part], *GROUND}
    if part in (
        "tasks",
        "runs",
        "explain",
        "studies",
        "probe",
        "export",
        "latency",
    ):  # they join the tasks, and may ask any
        allowed |= {each for each in ALLOWED if each.split(".")[0] in allowed}
    words = module.split(".")
    prefixes = {".".join(words[:length]) for length in range(2, len(words) + 1)}
    return bool({whole, *prefixes} & allowed) or (whole.startswith("models.") and "models" in allowed)


def test_imports_point_downwards(modules: dict[Path, ast.Module]) -> None:
    seen = set()
    for path, tree in modules.items():
        part = part_of(".".join(path.with_suffix("").parts))
        if part not in ALLOWED:
            continue
        seen.add(part)
        upward = sorted(module for module in imported_modules(path, tree) if not may_import(part, module))
        assert not upward, f"{path} imports {upward}"
    assert seen == set(ALLOWED)


HELP = """
import io, json, sys
from contextlib import redirect_stdout
from pvtctl.cli.main import COMMANDS, main
found, seen = {}, set()
for command in [*COMMANDS, ""]:
    with redirect_stdout(io.StringIO()) as out:
        code = main([command, "--help"] if command else ["--help"])
    new = {"torch", "torchvision", "matplotlib", "numpy", "scipy", "fvcore"} & set(sys.modules) - seen
    seen |= new
    found[command] = code, out.getvalue(), sorted(new)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str, list[str]]]:
    """Of each command: the exit code of its help, the text, and what it imported of what takes long; all in one new process."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_loads_no_torch(helps: dict[str, tuple[int, str, list[str]]], command: str) -> None:
    code, text, heavy = helps[command]
    assert (code, heavy) == (0, [])
    assert (command or "pretrain") in text
    assert "Usage" in text
