"""Layers of settings: flatten, check against the schema with file and line, and merge.

A layer holds the settings of one source: a base file, a recipe, a row, a profile, the command line. A flat layer has
one entry per value, keyed by its path: `("train", "optimizer", "lr"): 1e-4`, whether the keys were dotted or nested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbone_names import TIMM_PREFIX, split_name
from pvtctl.models.registry import (
    USE_OPTIONS,
    HeadOptions,
    OwnOptions,
    backbone_specs,
    find_backbone,
    find_head,
    head_specs,
)
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.yaml_loader import KeyPath, SourceMark

FREE_KEYS = ("provenance",)
"""Blocks whose keys are taken literally, including dots."""
KEPT_ON_RENAME = (("data",),)
"""Blocks that keep their other settings when `name` changes: another data set keeps image size and augmentation."""

Named = tuple[tuple[str, type[BaseModel]], ...]


DATA_NAME: KeyPath = ("data", "name")
COCO_FILES = ("train_images", "train_annotations", "val_images", "val_annotations")
PLACES = tuple(("data", key) for key in ("path", *COCO_FILES))
"""Keys that say where the data is."""
NAMED_SETS = ("nyu", "kitti", "ade20k", "pascal_context", "cityscapes")
"""Data sets with rules of their own; the other names are layouts of anyone's data."""
_RULES = {
    "data.depth": ("crop", "min_depth", "max_depth", "scale", "invalid", "split_file", "train_split_file"),
    "data.segmentation": ("labels", "ignore", "classes"),
    "eval": ("alignment", "max_depth", "crop", "ratios", "flip", "window", "stride"),
}
_TEST_SIZES = {
    "data.depth": ("test_size", "multiple"),
    "data.segmentation": ("test_short_side", "test_long_side", "align"),
}
RULES_OF_DATA, TEST_SIZES = (
    tuple((*block.split("."), key) for block, keys in blocks.items() for key in keys)
    for blocks in (_RULES, _TEST_SIZES)
)
"""Keys by which a named data set is read and scored, and those of the size at which it is tested."""


@dataclass
class Layer:
    """Settings of one source: values by path, and the source mark of every key."""

    label: str
    values: dict[KeyPath, Any] = field(default_factory=dict)
    marks: dict[KeyPath, SourceMark] = field(default_factory=dict)
    built_in: bool = False
    """From a recipe of `pvtctl recipes ls`, not from a user."""

    @property
    def of_profile(self) -> bool:
        return self.label.startswith("profile")

    def mark(self, path: KeyPath) -> SourceMark | None:
        """Mark of `path`, or of the nearest key above it."""
        return next((self.marks[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.marks), None)


@dataclass(frozen=True)
class Origin:
    """The layer that set a value, and its file and line."""

    label: str
    mark: SourceMark | None

    def __str__(self) -> str:
        return f"{self.label}, {self.mark}" if self.mark and self.mark.line else self.label


@dataclass(frozen=True)
class Fault:
    """One error, as one line."""

    text: str
    mark: SourceMark | None = None


def flatten(
    data: Mapping[str, Any], label: str, marks: Mapping[KeyPath, SourceMark], at: KeyPath = ()
) -> tuple[Layer, list[Fault]]:
    """Flatten the mapping at path `at` of a document into a layer; `marks` are the document's."""
    layer, faults = Layer(label), []
    first_below: dict[KeyPath, KeyPath] = {}  # of each block, and of each value itself

    def put(path: KeyPath, value: Any, mark: SourceMark | None) -> None:
        if len(path) == 2 and path[0] == "expect" and isinstance(value, int | float) and not isinstance(value, bool):
            path = (*path, "paper")
        above = (path[:end] for end in range(1, len(path)))
        said = first_below.get(path) or next((known for known in above if known in layer.values), None)
        if said:
            faults.append(Fault(f"{'.'.join(path)}: said twice ({mark}), also in {layer.mark(said)}", mark))
            return
        layer.values[path] = value
        for end in range(1, len(path) + 1):
            first_below.setdefault(path[:end], path)

    def walk(block: Mapping[str, Any], raw: KeyPath, path: KeyPath) -> None:
        for key, value in block.items():
            parts = (key,) if path and path[-1] in FREE_KEYS else tuple(key.split("."))
            here = (*path, *parts)
            mark = marks.get((*raw, key))
            for end in range(len(path) + 1, len(here) + 1):
                if mark:
                    layer.marks.setdefault(here[:end], mark)
            if not all(parts):
                faults.append(Fault(f"{key!r} is not a key ({mark})", mark))
            elif isinstance(value, dict) and value:
                walk(value, (*raw, key), here)
            else:
                put(here, value, mark)

    walk(data, at, ())
    return layer, faults


def merge(layers: list[Layer]) -> tuple[dict[KeyPath, Any], dict[KeyPath, Origin]]:
    """Merge layers, later over earlier: mappings merge, lists replace, a block whose `name` changes is replaced whole.

    Returns the values by path and the origin of each.
    """
    values: dict[KeyPath, Any] = {}
    origins: dict[KeyPath, Origin] = {}
    blocks: set[KeyPath] = set()  # those that had values at any time

    def drop(prefix: KeyPath) -> None:
        below = [known for known in values if known[: len(prefix)] == prefix] if prefix in blocks else []
        for path in below or ([prefix] if prefix in values else []):
            del values[path], origins[path]

    for layer in layers:
        for path, value in layer.values.items():
            block = path[:-1]
            if path[-1] == "name" and block and block not in KEPT_ON_RENAME and block[0] not in ("expect", *FREE_KEYS):
                before = values.get(path, _default(path))
                if before is not None and before != value:
                    drop(block)
        for path, value in layer.values.items():
            if value == {} and isinstance(value, dict):
                continue  # an empty block sets nothing
            for end in range(1, len(path)):
                if path[:end] in values:  # a block replaces a null
                    del values[path[:end]], origins[path[:end]]
                blocks.add(path[:end])
            drop(path)
            values[path] = value
            origins[path] = Origin(layer.label, layer.mark(path))
    return values, origins


def with_data_named(layers: list[Layer]) -> list[Layer]:
    """The layers, each that says where the data is above a profile also naming the data set that the profile replaces.

    Otherwise a profile on the built-in scenes would leave the folder of `--set data.path=...` unused.
    """
    named, plain = [], "imagenet"
    for at, layer in enumerate(layers):
        place = next((path for path in PLACES if layer.values.get(path) is not None), None)
        over_profile = any(below.of_profile and DATA_NAME in below.values for below in layers[:at])
        if place is not None and DATA_NAME not in layer.values and over_profile:
            marks = {**layer.marks, **({DATA_NAME: mark} if (mark := layer.mark(place)) else {})}
            layer = replace(layer, values={**layer.values, DATA_NAME: plain}, marks=marks)
        elif not layer.of_profile:
            plain = layer.values.get(DATA_NAME, plain)
        named.append(layer)
    return named


def rules_of_other_data(layers: list[Layer], *, sizes: bool) -> tuple[str, list[KeyPath]]:
    """The named data set of a built-in recipe, and the keys of its rules, where a user has named other data.

    NYUv2's crop and cap say nothing about another folder. What a profile or the user states remains, and so do test
    sizes without `sizes`: in training they belong to the training size.
    """
    rules = (*RULES_OF_DATA, *(TEST_SIZES if sizes else ()))
    own, chosen, by_user = "", "", False
    stated: dict[KeyPath, bool] = {}
    for layer in layers:
        if DATA_NAME in layer.values:
            chosen, by_user = layer.values[DATA_NAME], not layer.built_in
        shared = layer.built_in and not layer.of_profile
        own = layer.values.get(DATA_NAME, own) if shared else own
        stated |= {path: shared for path in rules if path in layer.values}
    if not by_user or chosen == own or own not in NAMED_SETS:
        return own, []
    return own, [path for path, of_recipe in stated.items() if of_recipe]


@cache
def _default(path: KeyPath) -> Any:
    """Default of the field at `path`, None if it has none."""
    value: Any = Recipe.model_fields[path[0]].get_default() if path[0] in Recipe.model_fields else None
    for part in path[1:]:
        value = getattr(value, part, None)
    return value


def nest(values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Convert flat `values` to a nested mapping."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        block = result
        for part in path[:-1]:
            block = block.setdefault(part, {})
        block[path[-1]] = value
    return result


def check_layer(
    layer: Layer, extra_keys: tuple[str, ...] = (), merged: Mapping[KeyPath, Any] | None = None
) -> list[Fault]:
    """Return every unknown key and wrong value of a layer, independent of the other layers.

    For an unknown key the nearest valid one is suggested: `extra_keys` are further keys allowed at the layer's top level,
    and options are those of the head and backbone named in `merged`, the recipe's values by path (unset: the layer's own).
    """
    merged = layer.values if merged is None else merged
    found = [_check_value(layer, path, value, extra_keys, merged) for path, value in layer.values.items()]
    return list({fault.text: fault for fault in found if fault}.values())


def _check_value(
    layer: Layer, path: KeyPath, value: Any, extra_keys: tuple[str, ...], merged: Mapping[KeyPath, Any]
) -> Fault | None:
    kind: Any = Recipe
    for depth, part in enumerate(path):
        here = path[: depth + 1]
        block = block_of(kind)
        if block is not None:
            fields = field_types(block)
            if part not in fields:
                if depth == 0 and part in extra_keys:
                    return _fault(layer, here, "takes a block of its own, not keys with dots")
                words = _own_keys(block, merged)
                words = [*fields, *(extra_keys if depth == 0 else ())] if words is None else words
                return _fault(layer, here, "unknown key", _nearest_key(part, words) if words else "leave it out")
            kind = fields[part]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            return _fault(layer, path[:depth], "takes a value, not keys")
    block = block_of(kind)
    if block is not None:
        if value == {} or (value is None and NoneType in get_args(kind)):
            return None
        return _fault(layer, path, f"takes keys ({', '.join(field_types(block))}), not {_shown(value)}")
    if get_origin(kind) is dict and value == {}:
        return None
    if path[0] == "provenance" and len(path) == 2 and not is_key(tuple(path[1].split("."))):
        return _fault(layer, path, "is about a key that recipes do not have")
    return _check_type(layer, path, kind, value)


def _own_keys(block: type[BaseModel], merged: Mapping[KeyPath, Any]) -> list[str] | None:
    """The options of the head or backbone that a recipe names; None for other blocks and for unknown names."""
    if block is HeadOptions:
        head = find_head(str(merged.get(("model", "head", "name"))))
        return None if head is None else head.option_names(merged.get(("task",)))
    name = str(merged.get(("model", "backbone", "name")))
    if block is not OwnOptions or name.startswith(TIMM_PREFIX):
        return [] if block is OwnOptions else None
    with suppress(UsageError):  # an impossible width, which is a fault of its own
        backbone = find_backbone(split_name(name).name)
        return None if backbone is None else backbone.option_names
    return None


def _check_type(layer: Layer, path: KeyPath, kind: Any, value: Any) -> Fault | None:
    if (first := _misfit(kind, value)) is None:
        return None
    problem = worded(first)
    if first["type"] == "value_error":  # worded by a check of ours, which names the value
        return _fault(layer, path, problem)
    choices = [str(choice) for choice in _literals(kind)]
    hint = nearest(str(value), choices) if choices and isinstance(value, str) else ""
    if not isinstance(value, list | dict) and _misfit(kind, [value]) is None:
        hint = f"write {_shown([value])}"
    if isinstance(value, list) and first["loc"]:
        if first["type"] == "missing":
            return _fault(layer, path, f"should have more values than {_shown(value)}")
        item = next((each for each in first["loc"] if isinstance(each, int)), 0)
        return _fault(layer, path, f"item {item} {problem}, not {_shown(first['input'])}", hint)
    return _fault(layer, path, f"{problem}, not {_shown(value)}", hint)


def _misfit(kind: Any, value: Any) -> Any:
    """pydantic's first error of a plain value for a setting of this type; None if it fits."""
    try:
        _adapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return error.errors(include_url=False)[0]
    return None


def worded(error: Any) -> str:
    """One of pydantic's errors as the rest of a sentence that begins with the key."""
    match error["type"]:
        case "missing":
            return "missing"
        case "value_error":
            return str(error["ctx"]["error"])
        case "options":
            return str(error["ctx"]["fault"])
        case "tuple_type" | "list_type":
            return "should be a list"
        case _:
            return str(error["msg"]).removeprefix("Input ").lower()


def needs_list(path: KeyPath, value: Any) -> bool:
    """Whether the setting at `path` takes lists, and does not take this value, which is no list."""
    kind: Any = Recipe
    for part in path:
        block = block_of(kind)
        fields = {} if block is None else field_types(block)
        if part not in fields:
            return False
        kind = fields[part]
    lists = any(get_origin(each) in (tuple, list) for each in _alternatives(kind))
    return lists and not isinstance(value, list | dict | None) and _misfit(kind, value) is not None


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types of an annotation, without bounds: `str | None` -> str, None."""
    if get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield from _alternatives(get_args(kind)[0]) if get_origin(kind) is Annotated else (kind,)


def _fault(layer: Layer, path: KeyPath, problem: str, hint: str = "") -> Fault:
    mark = layer.mark(path)
    return Fault(f"{'.'.join(path)}: {problem} ({mark}){', ' + hint if hint else ''}", mark)


def _nearest_key(word: str, siblings: list[str]) -> str:
    """The nearest key of the same block, else the paths of other blocks that have exactly this key."""
    near = nearest(word, siblings)
    if near.startswith("did you mean"):
        return near
    elsewhere = [".".join(path) for path in known_keys() if path[-1] == word]
    return f"did you mean {' or '.join(elsewhere)}?" if elsewhere else near


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


@cache
def block_of(kind: Any) -> type[BaseModel] | None:
    """Block class of an annotation (`Paper | None` -> `Paper`), None for plain values."""
    if get_origin(kind) is Annotated:
        return block_of(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return next((block for option in get_args(kind) if (block := block_of(option)) is not None), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _literals(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for option in get_args(kind) for choice in _literals(option)]


def field_types(block: type[BaseModel]) -> dict[str, Any]:
    """Annotations of a block's keys, including bounds; for `model.head`, the keys of all heads, and for
    `model.backbone.options` those of all backbones."""
    if block is HeadOptions:
        heads = options_now()[0]
        return {"name": Literal[tuple(name for name, _ in heads)]} | _types_of(heads, ("name",))
    if block is OwnOptions:
        return _types_of(options_now()[1], USE_OPTIONS)
    return _own_types(block)


def options_now() -> tuple[Named, Named]:
    """Names and options of the heads and backbones registered now: what is known of keys is computed once for each set."""
    heads = tuple((spec.name, spec.Options) for spec in head_specs())
    return heads, tuple((spec.name, spec.Options) for spec in backbone_specs())


@cache
def _own_types(block: type[BaseModel]) -> dict[str, Any]:
    hints = get_type_hints(block, include_extras=True)
    return {name: hints[name] for name in block.model_fields}


@cache
def _types_of(registered: Named, left_out: tuple[str, ...]) -> dict[str, Any]:
    """Annotations of the keys of all heads or backbones; a key with different types in several gets their union."""
    kinds: dict[str, list[Any]] = {}
    for _, options in registered:
        for key, kind in _own_types(options).items():
            if key not in left_out and kind not in kinds.setdefault(key, []):
                kinds[key].append(kind)
    return {key: found[0] if len(found) == 1 else Union[tuple(found)] for key, found in kinds.items()}  # noqa: UP007


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def known_keys() -> tuple[KeyPath, ...]:
    """Paths of all values that a recipe can set, without free names (`expect.*`)."""
    return _known_keys(options_now())


@cache
def _known_keys(registered: tuple[Named, Named]) -> tuple[KeyPath, ...]:
    def walk(block: type[BaseModel], at: KeyPath) -> Iterator[KeyPath]:
        for name, kind in field_types(block).items():
            inner = block_of(kind)
            if inner is not None:
                yield from walk(inner, (*at, name))
            elif get_origin(kind) is not dict:
                yield (*at, name)

    return tuple(walk(Recipe, ()))


def is_key(path: KeyPath) -> bool:
    """Whether `path` is a value or a block of recipes."""
    return path in _keys_and_blocks(options_now())


@cache
def _keys_and_blocks(registered: tuple[Named, Named]) -> frozenset[KeyPath]:
    return frozenset(known[:end] for known in _known_keys(registered) for end in range(1, len(known) + 1))
