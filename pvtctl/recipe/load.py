"""From a recipe's file, a row, a profile and `--set` to one flat, checked `Recipe`.

Precedence, lowest first: field default, `base:` file, recipe, row, profile, `--set`. Mappings merge, lists replace, and
a block whose `name` changes replaces the old block whole (`data` alone keeps its other settings). A base gives its
shared blocks and its profiles; rows belong to the file that prints them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

import pvtctl
from pvtctl.errors import UsageError, nearest
from pvtctl.recipe.layers import Fault, Layer, Origin, check, flatten, merge, nest
from pvtctl.recipe.schema import Printed, Recipe
from pvtctl.recipe.yaml_loader import Document, KeyPath, Mark, parse_value, read_yaml, shown_path

FILE_KEYS = ("base", "rows", "profiles", "printed")
"""What a recipe's file may say besides a recipe's own keys."""
Override = str | tuple[str, Any]
"""`key.path=value` with a YAML value, as `--set` takes it, or a key path and a plain value."""


class RecipeFaults(UsageError):
    """A recipe that cannot run, with every fault found in one pass."""

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
    """A recipe's file, read and checked layer by layer, but not yet merged into a run."""

    name: str
    path: Path
    shared: list[Layer]
    """Base first."""
    rows: dict[str, Layer]
    profiles: dict[str, list[Layer]]
    """Base first; `paper` is always there."""
    printed: dict[str, Printed]
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Resolved:
    """A recipe with the origin of every value that is not a field's default."""

    recipe: Recipe
    origins: dict[KeyPath, Origin]


def load_recipe(
    name_or_path: str | Path, row: str | None = None, profile: str = "paper", overrides: Sequence[Override] = ()
) -> Recipe:
    """The flat recipe of one run.

    `row` may be left out where the recipe has none, or one. Raises RecipeFaults (a UsageError) with all faults of the
    file and of `overrides`, and UsageError for an unknown recipe, row or profile.
    """
    return resolve(name_or_path, row, profile, overrides).recipe


def resolve(
    name_or_path: str | Path, row: str | None = None, profile: str = "paper", overrides: Sequence[Override] = ()
) -> Resolved:
    """`load_recipe`, with where each value came from."""
    source = read_recipe(name_or_path)
    row = _choose_row(source, row)
    if profile not in source.profiles:
        raise UsageError(
            f"recipe {source.name} has no profile {profile!r}", nearest(profile, list(source.profiles)).capitalize()
        )
    extra, faults = _override_layer(overrides)
    faults = [*source.faults, *faults, *check(extra)]
    layers = [*source.shared, *([source.rows[row]] if row else []), *source.profiles[profile], extra]
    values, origins = merge(layers)
    values[("name",)] = values.get(("name",), source.name)
    if row:
        values[("row",)] = row
    if profile != "paper" or ("profile",) not in values:
        values[("profile",)] = profile
    shown = shown_path(source.path)
    if faults:
        raise RecipeFaults(shown, faults)
    try:
        recipe = Recipe.model_validate_json(json.dumps(nest(values)), strict=True)
    except ValidationError as error:
        raise RecipeFaults(shown, [_late_fault(shown, origins, one) for one in error.errors()]) from error
    return Resolved(recipe, origins)


def _late_fault(shown: str, origins: dict[KeyPath, Origin], error: Any) -> Fault:
    """A fault that only the merged recipe shows, such as a backbone without a name."""
    path = tuple(str(part) for part in error["loc"])
    near = next((origin.mark for at, origin in origins.items() if at[: len(path)] == path and origin.mark), None)
    problem = "missing" if error["type"] == "missing" else error["msg"].removeprefix("Input ").lower()
    return Fault(f"{'.'.join(path)}: {problem} ({near or shown})", near)


def _choose_row(source: RecipeFile, row: str | None) -> str | None:
    names = list(source.rows)
    if row is None:
        if len(names) <= 1:
            return names[0] if names else None
        raise UsageError(f"recipe {source.name} has {len(names)} rows: say which", f"--row {' | '.join(names)}")
    if row not in source.rows:
        if row in source.printed:
            raise UsageError(f"row {row} of {source.name} is printed only: {source.printed[row].note}")
        raise UsageError(f"recipe {source.name} has no row {row!r}", nearest(row, names) if names else "it has no rows")
    return row


def _override_layer(overrides: Sequence[Override]) -> tuple[Layer, list[Fault]]:
    layer, faults = Layer("--set"), []
    for override in overrides:
        if isinstance(override, str):
            key, equals, text = override.partition("=")
            mark = Mark(f"--set {override}")
            if not equals or not key.strip():
                faults.append(Fault(f"--set {override}: write it as key.path=value", mark))
                continue
            try:
                value = parse_value(text)
            except UsageError as error:
                faults.append(Fault(f"--set {override}: {error.message}", mark))
                continue
        else:
            key, value = override
            mark = Mark(f"{key}={value}")
        key = key.strip()
        one, found = flatten({key: value}, "--set", {(key,): mark})
        faults += found
        for path in one.values:  # the last word on a key counts, and on a block too
            for known in [known for known in layer.values if known[: len(path)] == path or path[: len(known)] == known]:
                del layer.values[known]
        layer.values.update(one.values)
        layer.marks.update(one.marks)
    return layer, faults


def read_recipe(name_or_path: str | Path, _chain: tuple[Path, ...] = ()) -> RecipeFile:
    """Read a recipe's file with its base, and collect its faults.

    Raises UsageError when there is no such recipe or the file is not YAML.
    """
    path = recipe_path(name_or_path)
    document = read_yaml(path)
    faults = [Fault(text, _line_of(text)) for text in document.faults]
    parts = {key: document.data.get(key) for key in FILE_KEYS}
    own = {key: value for key, value in document.data.items() if key not in FILE_KEYS}
    shared, found = flatten(own, "recipe", document.marks)
    faults += [*found, *check(shared, FILE_KEYS)]
    result = RecipeFile(path.stem, path, [shared], {}, {"paper": []}, {}, faults)
    if parts["base"] is not None:
        _add_base(result, parts["base"], document.marks[("base",)], _chain)
    for name, layer in _sections(document, "rows", "row", faults):
        result.rows[name] = layer
    for name, layer in _sections(document, "profiles", "profile", faults):
        result.profiles.setdefault(name, []).append(layer)
    result.printed = _printed(document, faults)
    return result


def _line_of(text: str) -> Mark | None:
    match = re.search(r"\(([^()]+):(\d+)\)", text)
    return Mark(match[1], int(match[2])) if match else None


def _add_base(result: RecipeFile, base: Any, mark: Mark, chain: tuple[Path, ...]) -> None:
    chain = (*chain, result.path.resolve())
    if not isinstance(base, str):
        result.faults.append(Fault(f"base: the name or path of a recipe, not {json.dumps(base)} ({mark})", mark))
        return
    beside = result.path.parent / (base if base.endswith((".yaml", ".yml")) else f"{base}.yaml")
    try:
        path = beside if beside.is_file() else recipe_path(base)
        if path.resolve() in chain:
            raise UsageError("goes round in a circle: " + " -> ".join(one.stem for one in (*chain, path)))
        lower = read_recipe(path, chain)
    except UsageError as error:
        result.faults.append(Fault(f"base: {error.message} ({mark})", mark))
        return
    result.faults.extend(lower.faults)
    kept = [_without_identity(layer, lower.name) for layer in lower.shared]
    result.shared = [*kept, *result.shared]
    result.profiles = {name: list(layers) for name, layers in lower.profiles.items()}


def _without_identity(layer: Layer, base: str) -> Layer:
    """A base lends its settings, not its name, its table or what the paper printed for it."""
    values = {p: v for p, v in layer.values.items() if p[0] not in ("name", "about", "title", "paper", "expect")}
    label = layer.label if layer.label.startswith("base") else f"base {base}"
    return Layer(label, values, layer.marks)


def _sections(document: Document, key: str, kind: str, faults: list[Fault]) -> list[tuple[str, Layer]]:
    """The named layers under `rows:` or `profiles:`."""
    sections = document.data.get(key)
    if sections is None:
        return []
    mark = document.marks[(key,)]
    if not isinstance(sections, dict):
        faults.append(Fault(f"{key}: names with settings are expected ({mark})", mark))
        return []
    layers = []
    for name, settings in sections.items():
        mark = document.marks[(key, name)]
        if not re.fullmatch(r"[\w-]+", name):
            faults.append(Fault(f"{key}.{name}: a {kind}'s name is letters, digits, _ and - ({mark})", mark))
        elif not isinstance(settings, dict | None):
            faults.append(Fault(f"{key}.{name}: settings are expected, not {json.dumps(settings)} ({mark})", mark))
        else:
            layer, found = flatten(settings or {}, f"{kind} {name}", document.marks, (key, name))
            faults += [*found, *check(layer)]
            layers.append((name, layer))
    return layers


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
            result[name] = TypeAdapter(Printed).validate_json(json.dumps(row), strict=True)
        except ValidationError as error:
            for one in error.errors():
                key = ".".join(["printed", name, *map(str, one["loc"])])
                faults.append(Fault(f"{key}: {one['msg'].removeprefix('Input ').lower()} ({at})", at))
    return result


def recipes_folder(package: Path | None = None) -> Path:
    """Where the shipped recipes lie: in the installed package, or at the root of a checkout."""
    package = package or Path(pvtctl.__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipes_folder().rglob("*.yaml"))


def recipe_path(name_or_path: str | Path) -> Path:
    """The file of a shipped recipe's name, or of a path (anything with a `/` or ending in `.yaml` or `.yml`).

    Raises UsageError with the nearest names.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no recipe file {text}", "pvtctl recipes ls lists the recipes that came along")
        return path
    for path in recipes_folder().rglob("*.yaml"):
        if path.stem == text:
            return path
    raise UsageError(f"there is no recipe {text!r}", nearest(text, recipe_names()))


def rows_of(name_or_path: str | Path) -> list[str]:
    """The rows that a recipe can run, in the order of the paper's table."""
    return list(read_recipe(name_or_path).rows)


def profiles_of(name_or_path: str | Path) -> list[str]:
    """The profiles of a recipe, `paper` first."""
    return list(read_recipe(name_or_path).profiles)


def find_row(data_name: str, backbone: str, task: str = "classification") -> tuple[str, str]:
    """The recipe and row of a paper's table that trains `backbone` on `data_name`, in any of its profiles.

    `backbone` is a backbone's or a row's name. Where several recipes have one, the first by name.
    Raises UsageError when no recipe uses the data, or none has such a row.
    """
    rows: list[str] = []
    data: set[str] = set()
    for recipe, source in _tables(task):
        names = _data_names(source)
        data |= set(names)
        if data_name not in names:
            continue
        for row, layer in source.rows.items():
            if backbone in (row, layer.values.get(("model", "backbone", "name"))):
                return recipe, row
            rows.append(row)
    if data_name not in data:
        raise UsageError(
            f"no recipe of a paper trains on {data_name!r}", f"{nearest(data_name, sorted(data))} Or name a recipe."
        )
    raise UsageError(f"no recipe trains {backbone!r} on {data_name}", nearest(backbone, sorted(set(rows))))


def find_profile(recipe: str, data_name: str) -> str:
    """The first profile of a recipe (`paper` before the others) that uses `data_name`; UsageError where none does."""
    names = _data_names(read_recipe(recipe))
    if data_name not in names:
        raise UsageError(f"recipe {recipe} does not use {data_name!r}", nearest(data_name, list(names)))
    return names[data_name]


def _tables(task: str) -> list[tuple[str, RecipeFile]]:
    """The shipped recipes of `task` that stand for a table of a paper."""
    files = [(name, read_recipe(name)) for name in recipe_names()]
    found = []
    for name, source in files:
        values, _ = merge(source.shared)
        if ("paper", "key") in values and source.rows and values.get(("task",), "classification") == task:
            found.append((name, source))
    return found


def _data_names(source: RecipeFile) -> dict[str, str]:
    """The data sets that a recipe's profiles use, each with its first profile."""
    names: dict[str, str] = {}
    for profile, layers in source.profiles.items():
        values, _ = merge([*source.shared, *layers])
        names.setdefault(values.get(("data", "name"), "imagenet"), profile)
    return names


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every value by its dotted key, defaults included: `{"train.optimizer.lr": 0.001, ...}`, plain JSON values."""
    result: dict[str, Any] = {}

    def walk(value: Any, at: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, f"{at}.{key}" if at else str(key))
        elif value != {}:
            result[at] = value

    walk(recipe.model_dump(mode="json"), "")
    return result


def dump(recipe: Recipe) -> str:
    """The recipe as YAML text with every default written out; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
