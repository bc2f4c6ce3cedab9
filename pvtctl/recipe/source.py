"""Recipe files: find by name or path, read with the base, and check layer by layer before merging."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import pvtctl
from pvtctl.errors import UsageError, nearest
from pvtctl.io.foreign import found_instead
from pvtctl.recipe.earlier import is_of_run, with_earlier
from pvtctl.recipe.layers import Fault, Layer, Named, check_layer, flatten, options_now, worded
from pvtctl.recipe.schema import Printed, Study
from pvtctl.recipe.yaml_loader import Document, KeyPath, SourceMark, read_yaml

FILE_KEYS = ("base", "rows", "profiles", "printed", "study")
"""Keys that a recipe file may have in addition to those of `Recipe`."""
_NAMES: tuple[KeyPath, ...] = (("task",), ("model", "head", "name"), ("model", "backbone", "name"))
"""Keys that say which options a layer above them may have."""
_NOT_INHERITED = ("name", "about", "title", "paper", "expect")


class RecipeFaults(UsageError):
    """An invalid recipe, with all its faults."""

    def __init__(self, where: str, faults: Sequence[Fault]) -> None:
        unique = {fault.text: fault for fault in faults}
        self.faults = sorted(unique, key=lambda text: _order(unique[text]))
        head = self.faults[0] if len(self.faults) == 1 else f"{where}: {len(self.faults)} faults"
        lines = [] if len(self.faults) == 1 else [f"  {text}" for text in self.faults]
        super().__init__("\n".join([head, *lines]), "pvtctl recipes schema describes every key and its default")


def _order(fault: Fault) -> tuple[str, int]:
    return (fault.mark.file, fault.mark.line or 0) if fault.mark else ("", 0)


@dataclass
class RecipeFile:
    """A recipe file, read and checked layer by layer but not yet merged."""

    name: str
    path: Path
    own: Layer
    """Settings of this file that all its rows share."""
    rows: dict[str, Layer]
    profiles: dict[str, list[Layer]]
    """Base first; always has `paper`."""
    scaled_rows: dict[tuple[str, str], Layer]
    """By profile and row: settings of single rows in this file's profiles (not the base's)."""
    printed: dict[str, Printed]
    study: Study | None = None
    """Of this file only: not inherited from a base."""
    faults: list[Fault] = field(default_factory=list)
    base: RecipeFile | None = None
    """What it extends, without its rows, name, title, paper and published figures."""

    @property
    def shared(self) -> list[Layer]:
        """Settings of all rows, of the base first."""
        return [*(self.base.shared if self.base else ()), self.own]

    @property
    def built_in(self) -> bool:
        """Whether it is one of `pvtctl recipes ls`."""
        return self.path.resolve().is_relative_to(recipes_folder().resolve())

    def layers(self, profile: str = "paper", row: str | None = None) -> list[Layer]:
        """Layers of a run, lowest first.

        A user's file ranks above the profiles of its base: what it says of data or training holds at any scale. The
        built-in recipes are written for the opposite order, in which a profile scales all other settings.
        """
        scaled = [layer for key, layer in self.scaled_rows.items() if key == (profile, row)]
        of_row = [self.rows[row]] if row else []
        if self.base is None or self.built_in:
            return [*self.shared, *of_row, *self.profiles[profile], *scaled]
        inherited = self.base.profiles.get(profile, [])
        below = self.base.layers(profile if profile in self.base.profiles else "paper")
        return [*below, self.own, *of_row, *self.profiles[profile][len(inherited) :], *scaled]


def read_recipe(name_or_path: str | Path, _chain: tuple[Path, ...] = ()) -> RecipeFile:
    """Read a recipe file with its base, and collect its faults.

    Raises UsageError if there is no such recipe or the file is not YAML.
    """
    path = recipe_path(name_or_path)
    document = read_yaml(path)
    base, faults = _base_of(path, document, _chain)
    alone = _without_base(path, document, options_now(), _named(base))
    profiles = {name: list(layers) for name, layers in alone.profiles.items()}
    result = replace(alone, profiles=profiles, faults=[*alone.faults, *faults])
    if base is not None:
        _add_base(result, base)
    return result


def _named(base: RecipeFile | None) -> tuple[tuple[KeyPath, str], ...]:
    """The task, head and backbone that a base names for all rows."""
    layers = base.shared if base else []
    return tuple({key: str(layer.values[key]) for layer in layers for key in _NAMES if key in layer.values}.items())


@lru_cache(maxsize=64)  # one command reads the tables many times
def _without_base(
    path: Path, document: Document, registered: tuple[Named, Named], named: tuple[tuple[KeyPath, str], ...]
) -> RecipeFile:
    """The file's own layers, checked against the keys of heads and backbones, of which the base has `named` some. Cached: do
    not change it.
    """
    faults = [Fault(text, _line_of(text)) for text in document.faults]
    data = with_earlier(document.data) if is_of_run(path) else document.data
    own = {key: value for key, value in data.items() if key not in FILE_KEYS}
    shared, found = flatten(own, "recipe", document.marks)
    below = {**dict(named), **shared.values}
    faults += [*found, *check_layer(shared, FILE_KEYS, below)]
    result = RecipeFile(path.stem, path, shared, {}, {"paper": []}, {}, {}, faults=faults)
    for name, layer in _sections(document, ("rows",), "row", faults, lambda row: below):
        result.rows[name] = layer
    for name, layer in _sections(document, ("profiles",), "profile", faults, lambda profile: below):
        result.profiles.setdefault(name, []).append(layer)
        _add_scaled_rows(result, document, name, below)
    if result.built_in:
        of_profiles = [layer for layers in result.profiles.values() for layer in layers]
        for layer in (shared, *result.rows.values(), *of_profiles, *result.scaled_rows.values()):
            layer.built_in = True
    result.printed = _printed(document, faults)
    result.study = _study(document, list(result.rows), faults)
    return result


def _line_of(text: str) -> SourceMark | None:
    match = re.search(r"\(([^()]+):(\d+)\)", text)
    return SourceMark(match[1], int(match[2])) if match else None


def _base_of(path: Path, document: Document, chain: tuple[Path, ...]) -> tuple[RecipeFile | None, list[Fault]]:
    """The recipe that a file extends, None without one, and the faults of both that or of naming it."""
    base = document.data.get("base")
    if base is None:
        return None, []
    mark, chain = document.marks[("base",)], (*chain, path.resolve())
    if not isinstance(base, str):
        return None, [Fault(f"base: the name or path of a recipe, not {json.dumps(base)} ({mark})", mark)]
    beside = path.parent / (base if base.endswith((".yaml", ".yml")) else f"{base}.yaml")
    try:
        file = beside if beside.is_file() else recipe_path(base)
        if file.resolve() in chain:
            raise UsageError("goes round in a circle: " + " -> ".join(one.stem for one in (*chain, file)))
        lower = read_recipe(file, chain)
    except UsageError as error:
        return None, [Fault(f"base: {error.message} ({mark})", mark)]
    return lower, lower.faults


def _add_base(result: RecipeFile, lower: RecipeFile) -> None:
    values = {path: value for path, value in lower.own.values.items() if path[0] not in _NOT_INHERITED}
    result.base = replace(lower, own=replace(lower.own, label=f"base {lower.name}", values=values))
    names = [*lower.profiles, *(name for name in result.profiles if name not in lower.profiles)]
    result.profiles = {name: [*lower.profiles.get(name, []), *result.profiles.get(name, [])] for name in names}


def _sections(
    document: Document, at: KeyPath, kind: str, faults: list[Fault], below: Callable[[str], Mapping[KeyPath, Any]]
) -> list[tuple[str, Layer]]:
    """The named layers under `rows:`, under `profiles:`, or under the `rows:` of a profile; `below` gives the values on which
    a layer of that name lies.
    """
    sections: Any = document.data
    for key in at:
        sections = sections.get(key) if isinstance(sections, dict) else None
    if sections is None:
        return []
    mark, where = document.marks[at], ".".join(at)
    if not isinstance(sections, dict):
        faults.append(Fault(f"{where}: names with settings are expected ({mark})", mark))
        return []
    layers = []
    for name, settings in sections.items():
        mark = document.marks[(*at, name)]
        if not re.fullmatch(r"[\w-]+", name):
            faults.append(Fault(f"{where}.{name}: a {kind}'s name is letters, digits, _ and - ({mark})", mark))
        elif not isinstance(settings, dict | None):
            faults.append(Fault(f"{where}.{name}: settings are expected, not {json.dumps(settings)} ({mark})", mark))
        else:
            own = {key: value for key, value in (settings or {}).items() if at != ("profiles",) or key != "rows"}
            layer, found = flatten(own, f"{kind} {name}", document.marks, (*at, name))
            faults += [*found, *check_layer(layer, merged={**below(name), **layer.values})]
            layers.append((name, layer))
    return layers


def _add_scaled_rows(result: RecipeFile, document: Document, profile: str, below: Mapping[KeyPath, Any]) -> None:
    def below_row(row: str) -> dict[KeyPath, Any]:
        return {**below, **(result.rows[row].values if row in result.rows else {})}

    at, kind = ("profiles", profile, "rows"), f"profile {profile}, row"
    for row, layer in _sections(document, at, kind, result.faults, below_row):
        if row in result.rows:
            result.scaled_rows[profile, row] = layer
        else:
            mark = document.marks["profiles", profile, "rows", row]
            nearby = nearest(row, list(result.rows)) if result.rows else "the recipe has none"
            result.faults.append(Fault(f"profiles.{profile}.rows.{row}: there is no such row ({mark}), {nearby}", mark))


def _printed(document: Document, faults: list[Fault]) -> dict[str, Printed]:
    rows = document.data.get("printed") or {}
    mark = document.marks.get(("printed",))
    if not isinstance(rows, dict):
        faults.append(Fault(f"printed: names with title, expect and note are expected ({mark})", mark))
        return {}
    result = {}
    for name, row in rows.items():
        at = document.marks[("printed", name)]
        if isinstance(row, dict) and isinstance(row.get("expect"), dict):
            figures = {k: {"paper": v} if isinstance(v, int | float) else v for k, v in row["expect"].items()}
            row = {**row, "expect": figures}
        try:
            result[name] = Printed.model_validate_json(json.dumps(row), strict=True)
        except ValidationError as error:
            faults += _invalid(error, ["printed", name], at)
    return result


def _invalid(error: ValidationError, where: list[str], mark: SourceMark) -> list[Fault]:
    return [
        Fault(f"{'.'.join([*where, *map(str, one['loc'])])}: {worded(one)} ({mark})", mark) for one in error.errors()
    ]


def _study(document: Document, rows: list[str], faults: list[Fault]) -> Study | None:
    block = document.data.get("study")
    if block is None:
        return None
    at = document.marks[("study",)]
    try:
        study = Study.model_validate_json(json.dumps(block), strict=True)
    except ValidationError as error:
        faults += _invalid(error, ["study"], at)
        return None
    named = [("claims", row) for claim in study.claims for row in (claim.better, claim.worse, claim.row)]
    named += [("left_out", row) for row in study.left_out]
    for key, row in named:
        if row is not None and row not in rows:
            faults.append(Fault(f"study.{key}: there is no row {row} ({at}), {nearest(row, rows)}", at))
    return study


def recipes_folder(package: Path | None = None) -> Path:
    """Folder of the shipped recipes: in the installed package, or at the root of a checkout."""
    package = package or Path(pvtctl.__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipes_folder().rglob("*.yaml"))


def recipe_path(name_or_path: str | Path) -> Path:
    """File of a shipped recipe by name, or of a path (anything with a `/` or ending in `.yaml` or `.yml`).

    Raises UsageError with the nearest names.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(text).expanduser()
        if not path.is_file():
            said = found_instead(path, "a recipe file") or f"there is no recipe file {text}"
            raise UsageError(said, "pvtctl recipes ls lists the shipped recipes")
        return path
    for path in recipes_folder().rglob("*.yaml"):
        if path.stem == text:
            return path
    raise UsageError(f"there is no recipe {text!r}", nearest(text, recipe_names()))
