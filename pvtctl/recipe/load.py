"""Load a recipe file with row, profile and `--set` as one flat, checked `Recipe`.

Precedence, lowest first: field default, `base:` file, recipe, row, profile, the profile's settings of the row, `--set`.
The profiles of a base rank below a user's own file (`RecipeFile.layers`).
Mappings merge, lists replace, and a block whose `name` changes replaces the old block whole (except `data`).
A base provides its shared blocks and profiles; its rows are not inherited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pvtctl.errors import UsageError, nearest
from pvtctl.extensions import require_named
from pvtctl.models.registry import find_head, head_specs
from pvtctl.recipe.agreement import find_faults
from pvtctl.recipe.block import dotted
from pvtctl.recipe.layers import (
    Fault,
    Layer,
    Origin,
    check_layer,
    flatten,
    merge,
    needs_list,
    nest,
    rules_of_other_data,
    with_data_named,
    worded,
)
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import RecipeFaults, RecipeFile, read_recipe, recipe_names
from pvtctl.recipe.yaml_loader import KeyPath, SourceMark, parse_value, shown_path

FIRST = (
    "imagenet_pvt_v1",
    "imagenet_pvt_v2",
    "coco_retinanet_1x",
    "coco_mask_rcnn_1x",
    "coco_detr_50e",
    "ade20k_semantic_fpn",
    "ade20k_trans2seg",
    "dpt_ade20k",
    "dpt_nyu",
    "dpt_backbones",
)
"""The main tables: a backbone named without a recipe selects its row in the first of these that has one."""
Override = str | tuple[str, Any]
"""`key.path=value` with a YAML value, as for `--set`, or a (key path, value) pair."""


@dataclass(frozen=True)
class Resolved:
    """A recipe, and the origin of every value that is not a default."""

    recipe: Recipe
    origins: dict[KeyPath, Origin]
    data_set: str
    """The data of the built-in recipe."""
    left_out: dict[str, Any]
    """Rules of that data set, by dotted key, that do not apply as a user has named other data."""


def load_recipe(
    name_or_path: str | Path, row: str | None = None, profile: str = "paper", overrides: Sequence[Override] = ()
) -> Recipe:
    """Load the flat recipe of one run.

    `row` is optional if the recipe has at most one. Raises RecipeFaults (a UsageError) with all faults of the file and
    of `overrides`, and UsageError for an unknown recipe, row or profile.
    """
    return resolve(name_or_path, row, profile, overrides).recipe


def resolve(
    name_or_path: str | Path,
    row: str | None = None,
    profile: str = "paper",
    overrides: Sequence[Override] = (),
    *,
    scoring: bool = False,
) -> Resolved:
    """Like `load_recipe`, with the origin of each value. `scoring`: nothing is trained, so that test sizes of a named data
    set are left out for other data too."""
    source = read_recipe(name_or_path)
    row = _choose_row(source, row)
    if profile not in source.profiles:
        raise UsageError(
            f"recipe {source.name} has no profile {profile!r}", nearest(profile, list(source.profiles)).capitalize()
        )
    extra, faults = _override_layer(overrides)
    layers = with_data_named([*source.layers(profile, row), extra])
    values, origins = merge(layers)
    faults = [*source.faults, *faults, *check_layer(extra, merged=values)]
    of_set, rules = rules_of_other_data(layers, sizes=scoring)
    left_out = {".".join(path): values.pop(path) for path in rules if path in values}
    for path in rules:
        origins.pop(path, None)
    values[("name",)] = values.get(("name",), source.name)
    if row:
        values[("row",)] = row
    if profile != "paper" or ("profile",) not in values:
        values[("profile",)] = profile
    shown = shown_path(source.path)
    needed = values.get(("module",), ())
    require_named([needed] if isinstance(needed, str) else needed, source.name)
    if faults:
        raise RecipeFaults(shown, faults)
    _drop_other_heads(values, origins)
    try:
        recipe = Recipe.model_validate_json(json.dumps(nest(values)), strict=True)
    except ValidationError as error:
        raise RecipeFaults(shown, [_late_fault(shown, origins, one) for one in error.errors()]) from error
    if faults := find_faults(layers, recipe, origins):
        raise RecipeFaults(shown, faults)
    if recipe.expect and recipe.name not in recipe_names() and any(path[0] == "model" for path in extra.values):
        recipe = _without_figures_of_another_model(recipe, extra, (name_or_path, row, profile))
    return Resolved(recipe, origins, of_set, left_out)


def _without_figures_of_another_model(recipe: Recipe, extra: Layer, of: tuple[str | Path, str | None, str]) -> Recipe:
    """A user's recipe (`of` file, row, profile), without title and figures of its row if `--set` makes another model of it.

    Figures of built-in recipes stay: reports say that they are of another model.
    """
    others = [(".".join(path), value) for path, value in extra.values.items() if path[0] != "model"]
    with suppress(UsageError):  # the file alone may have no model
        own, model = resolve(*of, others).recipe.model, recipe.model
        rate = {"drop_path_rate": model.backbone.drop_path_rate}
        if (own.backbone.model_copy(update=rate), own.head) == (model.backbone, model.head):
            return recipe
    stated = {path[1:2] for path in extra.values if path[0] == "expect"}
    figures = {name: figure for name, figure in recipe.expect.items() if (name,) in stated}
    return recipe.model_copy(update={"expect": figures, "title": None})


def _drop_other_heads(values: dict[KeyPath, Any], origins: dict[KeyPath, Origin]) -> None:
    """Remove keys that only other heads have: settings of a base or a profile for another head, and, in flat recipes of
    older runs, the defaults of every other head. `find_faults` reports those set deliberately."""
    spec = find_head(str(values.get(("model", "head", "name"))))
    for path in list(values):
        if spec and path[:2] == ("model", "head") and path[2] not in spec.Options.model_fields:
            del values[path]
            origins.pop(path, None)


def keys_of_other_heads(recipe: Recipe) -> list[str]:
    """Dotted keys of heads that the recipe's head does not have. Flat recipes of runs made by pvtctl 0.1 hold their defaults,
    which change nothing."""
    if recipe.model.head is None:
        return []
    own = type(recipe.model.head).model_fields
    keys = dict.fromkeys(key for spec in head_specs() for key in spec.option_names())
    return [f"model.head.{key}" for key in keys if key not in own]


def _late_fault(shown: str, origins: dict[KeyPath, Origin], error: Any) -> Fault:
    """A fault of the merged recipe, such as a backbone without a name."""
    path = tuple(str(part) for part in error["loc"])
    block = path[:-1] if error["type"] == "missing" and len(path) > 1 else path
    below = sorted((at for at, origin in origins.items() if at[: len(block)] == block and origin.mark), key=len)
    near = origins[below[-1 if error["type"] == "options" else 0]].mark if below else None
    hint = error.get("ctx", {}).get("hint")
    return Fault(f"{'.'.join(path)}: {worded(error)} ({near or shown}){f', {hint}' if hint else ''}", near)


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
            mark = SourceMark(f"--set {override}")
            if not equals or not key.strip():
                faults.append(Fault(f"--set {override}: write it as key.path=value", mark))
                continue
            try:
                value = read_value(key, text)
            except UsageError as error:
                quoted = f"""text that is no YAML needs quotes: --set '{key}="TEXT"'"""
                faults.append(Fault(f"--set {override}: {error.message}; {quoted}", mark))
                continue
        else:
            key, value = override
            mark = SourceMark(f"{key}={value}")
        key = key.strip()
        one, found = flatten({key: value}, "--set", {(key,): mark})
        faults += found
        for path in one.values:  # the last value of a key counts, and of a block too
            for known in [known for known in layer.values if known[: len(path)] == path or path[: len(known)] == known]:
                del layer.values[known]
        layer.values.update(one.values)
        layer.marks.update(one.marks)
    return layer, faults


def read_value(key: str, text: str) -> Any:
    """The value of `--set KEY=TEXT`; of a setting that takes a list, `a` is [a] and `a,b` is [a, b]. Raises UsageError."""
    value = parse_value(text)
    if needs_list(tuple(key.strip().split(".")), value):
        with suppress(UsageError):  # not a list either: the value as it is will be refused
            return parse_value(f"[{text}]")
    return value


def keys_said(overrides: Sequence[Override]) -> set[str]:
    """The dotted keys set by `overrides`; malformed ones are reported by `load_recipe`."""
    return {".".join(path) for path in _override_layer(overrides)[0].values}


def rows_of(name_or_path: str | Path) -> list[str]:
    """Rows of a recipe, in the order of the paper's table."""
    return list(read_recipe(name_or_path).rows)


def backbone_of_profile(name_or_path: str | Path, profile: str) -> dict[str, Any]:
    """Settings of `model.backbone` in a profile: {"width": 0.25} in most tables' mini. A user's file above may differ."""
    source = read_recipe(name_or_path)
    scales = source.profiles.get(profile, [])
    said = _backbone_settings(scales)
    if "name" in said:
        return {}
    layers = source.layers(profile) if profile in source.profiles else []
    above = layers[max((at for at, layer in enumerate(layers) if layer in scales), default=-1) + 1 :]
    return said | {key: value for key, value in _backbone_settings(above).items() if key in said}


def _backbone_settings(layers: list[Layer]) -> dict[str, Any]:
    values, _ = merge(layers)
    return {path[2]: value for path, value in values.items() if path[:2] == ("model", "backbone") and len(path) == 3}


def find_row(
    data_name: str, backbone: str, task: str = "classification", *, head: str | None = None
) -> tuple[str, str]:
    """Find the recipe and row of a paper's table that trains `backbone` on `data_name` in any profile.

    `backbone` is the name of a backbone or a row; with `head`, only recipes with that head count. Those in `FIRST` come
    first, then the others by name. Raises UsageError if no recipe uses the data, or none has such a row.
    """
    rows: list[str] = []
    data: set[str] = set()
    for recipe, source in _tables(task):
        names = _data_names(source)
        data |= set(names)
        if data_name not in names:
            continue
        for row, layer in source.rows.items():
            values, _ = merge([*source.shared, layer])
            if head is not None and values.get(("model", "head", "name")) != head:
                continue
            if backbone in (row, values.get(("model", "backbone", "name"))):
                return recipe, row
            rows.append(row)
    if data_name not in data:
        raise UsageError(
            f"no recipe of a paper trains on {data_name!r}", f"{nearest(data_name, sorted(data))} Or name a recipe."
        )
    under = f" under {head}" if head else ""
    raise UsageError(f"no recipe trains {backbone!r}{under} on {data_name}", nearest(backbone, sorted(set(rows))))


def find_profile(recipe: str, data_name: str) -> str:
    """First profile of a recipe (`paper` before the others) that uses `data_name`; UsageError if none does."""
    names = _data_names(read_recipe(recipe))
    if data_name not in names:
        raise UsageError(f"recipe {recipe} does not use {data_name!r}", nearest(data_name, list(names)))
    return names[data_name]


def _tables(task: str) -> Iterator[tuple[str, RecipeFile]]:
    """Shipped recipes of `task` that reproduce a paper's table, those of `FIRST` before the others."""
    names = recipe_names()
    for name in [*(name for name in FIRST if name in names), *(name for name in names if name not in FIRST)]:
        source = read_recipe(name)
        values, _ = merge(source.shared)
        if ("paper", "key") in values and source.rows and values.get(("task",), "classification") == task:
            yield name, source


def _data_names(source: RecipeFile) -> dict[str, str]:
    """Data sets used by a recipe's profiles -> the first profile that uses it."""
    names: dict[str, str] = {}
    for profile in source.profiles:
        values, _ = merge(with_data_named(source.layers(profile)))
        names.setdefault(values.get(("data", "name"), "imagenet"), profile)
    return names


def flat(recipe: Recipe) -> dict[str, Any]:
    """All values by dotted key, including defaults: `{"train.optimizer.lr": 0.001, ...}`, plain JSON values."""
    return dotted(recipe.plain_values())


def dump(recipe: Recipe) -> str:
    """The recipe as YAML text including defaults; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.plain_values(), sort_keys=False, allow_unicode=True, width=120)


@dataclass(frozen=True)
class Spec:
    """One run of a recipe as written on the command line: `NAME[:ROW][@PROFILE]`."""

    name: str
    row: str | None = None
    profile: str = "paper"

    def load(self, overrides: tuple[Override, ...] = ()) -> Recipe:
        return load_recipe(self.name, self.row, self.profile, overrides)

    def __str__(self) -> str:
        row = f":{self.row}" if self.row else ""
        return f"{self.name}{row}@{self.profile}"


def parse_spec(text: str) -> Spec:
    """Parse `imagenet_pvt_v1:pvt_small@mini`, `my.yaml@mini` or `small_photos`; raises UsageError."""
    rest, at, profile = text.partition("@")
    name, colon, row = rest.partition(":")
    if not name or (at and not profile) or (colon and not row):
        raise UsageError(
            f"{text!r} does not name a run", "write NAME[:ROW][@PROFILE], as in imagenet_pvt_v1:pvt_small@mini"
        )
    return Spec(name, row or None, profile or "paper")


def recipe_differences(left: Recipe, right: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return keys whose values differ, with both values (None for a missing key). Provenance is ignored."""
    ours, theirs = flat(left), flat(right)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    told = [key for key in keys if ours.get(key) != theirs.get(key) and not key.startswith("provenance.")]
    return {key: (ours.get(key), theirs.get(key)) for key in told}
