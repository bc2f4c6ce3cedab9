"""What a profile changes of the data and sizes of a run, to be said wherever it is used. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.recipe.agreement import is_unread
from pvtctl.recipe.load import Override, load_recipe, recipe_differences


def profile_changes(
    name_or_path: str | Path, row: str | None, profile: str, overrides: Sequence[Override] = ()
) -> dict[str, tuple[Any, Any]]:
    """What a profile changes of a run's data, samples, image sizes and width: by key, the value without it and with it."""
    if profile == "paper":
        return {}
    here = load_recipe(name_or_path, row, profile, overrides)
    try:
        full = load_recipe(name_or_path, row, "paper", overrides)
    except UsageError:  # the file is made for its own profiles only
        return {}
    changes = recipe_differences(full, here)
    return {key: pair for key, pair in changes.items() if _is_scale(key) and not is_unread(key, here)}


def _is_scale(key: str) -> bool:
    return key == "model.backbone.width" or (
        key.startswith("data.") and key != "data.workers" and not key.startswith("data.augment.")
    )


def changes_line(profile: str, changes: Mapping[str, tuple[Any, Any]]) -> str:
    """`profile mini changes data.name from coco to scenes, data.train_samples from all to 300`; empty for no changes."""
    told = [f"{key} from {_shown(key, full)} to {_shown(key, here)}" for key, (full, here) in changes.items()]
    return f"profile {profile} changes {', '.join(told)}" if told else ""


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "all" if key.endswith("_samples") else "unset"
    return value if isinstance(value, str) else json.dumps(value)
