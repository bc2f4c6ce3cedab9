"""Imports point downwards only, and the command line loads no torch until a command needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pvtctl
from pvtctl.cli.main import COMMANDS

PACKAGE = Path(pvtctl.__file__).parent
GROUND = {"errors", "files", "allocator", "variants", "structures", "download", "coco_classes", "segmentation_classes"}
GROUND |= {"depth_png"}
MODELS = {"layers", "backbones", "necks", "heads", "detectors", "dense"}
# what each part may import, besides itself and the ground
ALLOWED = {
    "recipe": set(),
    "layers": set(),
    "backbones": {"layers"},
    "necks": {"layers"},
    "heads": {"layers", "losses"},
    "detectors": MODELS,
    "dense": MODELS,
    "losses": set(),
    "metrics": set(),
    "data": set(),
    "engine": set(),
    "weights": MODELS,
    "cost": MODELS | {"data", "losses"},
    "views": {"metrics"},
    "tasks": MODELS | {"losses", "metrics", "data", "engine", "weights", "recipe", "views", "cost"},
    "studies": MODELS | {"data", "engine", "weights", "recipe", "views", "cost", "tasks", "metrics"},
    "export": MODELS | {"weights", "cost", "tasks", "recipe", "data"},
    "api": MODELS | {"weights", "data", "engine", "recipe", "tasks"},
}


def imported_parts(path: Path) -> set[str]:
    """First-level parts of pvtctl that the module imports, anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("pvtctl.")}
    return parts


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_imports_point_downwards() -> None:
    seen = set()
    for path in modules():
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ALLOWED:
            seen.add(part)
            upward = imported_parts(path) - ALLOWED[part] - GROUND - {part, "__version__"}
            assert not upward, f"{path.relative_to(PACKAGE)} imports {sorted(upward)}"
    assert seen >= {"recipe", "layers", "backbones", "data", "engine", "tasks", "weights", "cost", "views"}


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_loads_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom pvtctl.cli.main import main\n"
        f"code = main({[command, '--help'] if command else ['--help']!r})\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'numpy', 'scipy', 'fvcore'} & set(sys.modules)\n"
        "assert code == 0, code\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (command or "pretrain") in result.stdout
    assert "Usage" in result.stdout
