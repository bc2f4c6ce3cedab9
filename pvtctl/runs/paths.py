"""Paths of runs and data. Does not import torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pvtctl.errors import UsageError
from pvtctl.io.urls import is_url, keep_secrets
from pvtctl.weights.resolve import split_inside

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe


def runs_root() -> Path:
    """Default directory of runs."""
    return Path(os.environ.get("PVTCTL_RUNS") or "runs")


def given_weights(text: str | Path) -> str:
    """Absolute path of a file or folder, with the part of it that is named, so that a run can be resumed from anywhere; a
    published name as it is.
    """
    name, inside = split_inside(str(text))
    path = Path(name).expanduser()
    return f"{path.absolute()}{f'#{inside}' if inside else ''}" if path.exists() else str(text)


def named_folder(*parts: str) -> Path:
    """`<runs>/PART-PART...`."""
    return runs_root() / "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts if part)


def free_folder(*parts: str) -> Path:
    """`named_folder`, with a number if it exists."""
    out, number = named_folder(*parts), 2
    while out.exists():
        out, number = named_folder(*parts, str(number)), number + 1
    return out


def default_out(recipe: Recipe, label: str | None = None) -> Path:
    """`<runs>/<recipe>-<row or backbone>[-<profile>][-<label>]`; `label` names custom data."""
    profile = recipe.profile if recipe.profile != "paper" else ""
    return named_folder(recipe.name, recipe.row or recipe.model.backbone.spec, profile, label or "")


def absolute_place(data: str | Path) -> str:
    """A folder of data as an absolute path; a URL as it is, without its secrets."""
    return keep_secrets(str(data)) if is_url(data) else str(Path(data).expanduser().absolute())


def data_place(recipe: Recipe) -> str:
    """Location of a recipe's data, for messages. Raises UsageError when it is not found."""
    from pvtctl.data.find import find_data

    if recipe.data.name == "scenes":
        return "scenes, rendered as needed"
    if recipe.data.name == "mix":
        places = []
        for name, one in recipe.data.depth.mix.items():
            try:
                places.append(f"{name} in {find_data(one.name, one.path)}")
            except UsageError as error:
                raise UsageError(f"data.depth.mix.{name}: {error.message}", error.hint) from error
        return "mix of " + ", ".join(places)
    if recipe.data.val_annotations:
        return f"{recipe.data.name}, {recipe.data.val_annotations}"
    return f"{recipe.data.name} in {recipe.data.url or find_data(recipe.data.name, recipe.data.path)}"
