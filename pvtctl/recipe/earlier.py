"""Runs of earlier versions: what they did where a setting of today is missing in their recipe.yaml.

A run directory holds its whole recipe. A key that it lacks is newer than the run, and today's default of that key need not be
how the run went about it; so a run is resumed, evaluated and compared with the values below.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pvtctl.recipe.block import SettingsBlock
from pvtctl.recipe.schema import Recipe

Block = TypeVar("Block", bound=SettingsBlock)

EARLIER: dict[tuple[str, ...], Any] = {
    ("data", "exif"): "ignore",
    ("data", "grey_range"): (0.0, 65535.0),
    ("data", "detection", "resize"): "antialias",
    ("data", "shards", "train"): "train/*.tar",
    ("data", "shards", "val"): "val/*.tar",
}
"""Newer settings by path, with the value that says what was done before there was a choice."""


def is_of_run(path: Path) -> bool:
    """Whether a recipe file is that of a run directory."""
    return path.name == "recipe.yaml" and (path.parent / "run.json").is_file()


def with_earlier(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The whole recipe of a run, as plain values, with the settings that are newer than the run."""
    filled = copy.deepcopy(dict(recipe))
    if "task" not in filled:  # of a test's or a user's own training loop, not a recipe of pvtctl
        return filled
    for (*blocks, key), value in EARLIER.items():
        block: Any = filled
        for name in blocks:
            block = block.setdefault(name, {}) if isinstance(block, dict) else None
        if isinstance(block, dict):
            block.setdefault(key, _plain(value))
    return filled


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def as_begun(recipe: Recipe, began: Mapping[str, Any]) -> Recipe:
    """`recipe` with what the run that it resumes did before there was a choice; a setting that was stated stays.

    Args:
        recipe: The recipe by today's defaults.
        began: The run's recipe, from `with_earlier`.
    """
    for (*blocks, key), value in EARLIER.items():
        theirs: Any = began
        for name in blocks:
            theirs = theirs.get(name) if isinstance(theirs, dict) else None
        if isinstance(theirs, dict) and theirs.get(key) == _plain(value):
            recipe = _unless_stated(recipe, blocks, key, value)
    # recipes of earlier versions always state the pixels, and today's leave them to the weights
    data = began.get("data")
    if isinstance(data, dict) and (stated := data.get("normalization")) is not None:
        recipe = _unless_stated(recipe, ["data"], "normalization", stated)
    return recipe


def _unless_stated(block: Block, blocks: list[str], key: str, value: Any) -> Block:
    """`block` with `value` at a path below it, if nothing but null was stated there."""
    if blocks:
        inner = getattr(block, blocks[0])
        return block.model_copy(update={blocks[0]: _unless_stated(inner, blocks[1:], key, value)})
    stated = key in block.model_fields_set and getattr(block, key) is not None
    return block if stated else block.model_copy(update={key: value})
