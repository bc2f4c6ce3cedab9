"""From the few words of `pretrain`, `finetune` and `eval` to one recipe; what was chosen for the user is said. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import say
from pvtctl.errors import PvtctlError, UsageError, nearest

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe

NAMED_DATA = ("imagenet", "scenes")
DEFAULT_BACKBONE = "pvt_small"
Override = str | tuple[str, Any]


def note(text: str) -> None:
    """Say what was chosen, once: not in the processes that `--gpus` started, nor in other ranks than the first."""
    if "PVTCTL_LAUNCHER" not in os.environ and os.environ.get("RANK", "0") == "0":
        say(text)


@dataclass(frozen=True)
class DataChoice:
    """Which data the user means."""

    name: str
    """`imagenet` (the layout) or `scenes`."""
    path: Path | None = None
    """Where it lies, absolute, where the user said so."""
    label: str | None = None
    """For the run folder's name: a folder of the user's own."""

    def overrides(self) -> list[Override]:
        """As a recipe takes it."""
        return [("data.name", self.name), ("data.path", str(self.path) if self.path else None)]


def choose_data(word: str, folder: Path | None) -> DataChoice:
    """What DATA and `--data` mean together: a named data set (found, or in `folder`), or a folder in ImageNet layout.

    Raises UsageError.
    """
    if word == "scenes" and folder is not None:
        raise UsageError("scenes is rendered, it needs no --data", "leave out --data, or say imagenet for a folder")
    if word in NAMED_DATA:
        return DataChoice(word, folder.expanduser().absolute() if folder else None)
    path = Path(word).expanduser()
    if folder is not None:
        raise UsageError(f"{word!r} and --data {folder} both name data", f"pvtctl ... imagenet --data {folder}")
    if path.is_dir():
        return DataChoice("imagenet", path.absolute(), path.absolute().name)
    looks_like_a_path = os.sep in word or word.startswith(".")
    problem = f"there is no folder {word}" if looks_like_a_path else f"no data set or folder {word!r}"
    close = nearest(word, NAMED_DATA)
    hint = f"{close} Or " if close.startswith("did you mean") else ""
    raise UsageError(
        problem, f"{hint}say imagenet, scenes, or a folder that holds train/CLASS/*.jpg and val/CLASS/*.jpg"
    )


def choose_recipe(
    data: DataChoice,
    *,
    backbone: str | None,
    recipe: str | None,
    profile: str | None,
    overrides: Sequence[Override] = (),
) -> Recipe:
    """The recipe of a run: by `recipe` (a name or a file) or the paper's table that trains `backbone`.

    Says what was chosen where the user left it open. Raises UsageError.
    """
    from pvtctl.recipe.load import find_profile, find_row, load_recipe, rows_of

    row: str | None
    stand_in = None
    if recipe is not None:
        rows = rows_of(recipe)
        backbone = backbone or _default_row(recipe, rows)
        row = _row_with(recipe, rows, backbone) if backbone else None
        if row is None and backbone and rows:
            stand_in = rows[0]
    else:
        if backbone is None:
            backbone = DEFAULT_BACKBONE
            note(f"backbone: {backbone}, as none was named (--backbone NAME; `pvtctl models ls` lists them)")
        check_backbone(backbone, also=_row_names())
        try:
            recipe, row = find_row("imagenet", backbone)
        except UsageError:  # a backbone that stands in no table
            recipe, row = "imagenet_pvt_v1", None
            stand_in = rows_of(recipe)[0]
    if profile is None and data.name == "scenes":
        try:
            profile = find_profile(recipe, "scenes")
        except UsageError:
            profile = "paper"
        else:
            note(f"profile: {profile}, the one for scenes (--profile NAME chooses another)")
    profile = profile or "paper"
    settings = [*data.overrides(), *overrides]
    if row is None and backbone is not None:
        check_backbone(backbone)
        settings.insert(0, ("model.backbone", {"name": backbone}))
    chosen = load_recipe(recipe, row or stand_in, profile, settings)
    if stand_in is not None:
        note(f"recipe: no row of {chosen.name} trains {backbone}: its shared settings are used, without drop path")
        nothing: dict[str, Any] = {"row": None, "title": None, "paper": None, "expect": {}, "provenance": {}}
        return chosen.model_copy(update=nothing)
    note(f"recipe: {chosen.name}{f', row {chosen.row}' if chosen.row else ''}, profile {chosen.profile}")
    return chosen


def _default_row(recipe: str, rows: list[str]) -> str | None:
    """The row to take when none was named; None where the recipe needs none. Raises UsageError when it is unclear."""
    if len(rows) <= 1:
        return rows[0] if rows else None
    if DEFAULT_BACKBONE not in rows:
        raise UsageError(f"recipe {recipe} has {len(rows)} rows: say which", f"--backbone {' | '.join(rows)}")
    note(f"backbone: {DEFAULT_BACKBONE}, as none was named (--backbone NAME)")
    return DEFAULT_BACKBONE


def _row_with(recipe: str, rows: list[str], backbone: str) -> str | None:
    """The row of a recipe that has this name or trains this backbone."""
    from pvtctl.recipe.source import read_recipe

    if backbone in rows:
        return backbone
    layers = read_recipe(recipe).rows
    return next((r for r in rows if layers[r].values.get(("model", "backbone", "name")) == backbone), None)


def _row_names() -> list[str]:
    from pvtctl.recipe.load import rows_of

    return [row for recipe in ("imagenet_pvt_v1", "imagenet_pvt_v2") for row in rows_of(recipe)]


def check_backbone(name: str, also: Sequence[str] = ()) -> None:
    """Raise UsageError with the nearest names unless `name` is a backbone or one of `also`."""
    from pvtctl.variants import TIMM_PREFIX, find_variant

    if not name.startswith(TIMM_PREFIX) and name not in also:
        find_variant(name)


def data_place(recipe: Recipe) -> str:
    """Where a recipe's data lies, in words. Raises UsageError when it is nowhere."""
    from pvtctl.data import find_data

    if recipe.data.name == "scenes":
        return "scenes, rendered as needed"
    return f"{recipe.data.name} in {find_data(recipe.data.name, recipe.data.path)}"


def runs_root() -> Path:
    """Where runs lie when no `--out` is given."""
    return Path(os.environ.get("PVTCTL_RUNS") or "runs")


def default_out(recipe: Recipe, data: DataChoice) -> Path:
    """`<runs>/<recipe>-<row or backbone>[-<profile>][-<the user's data folder>]`."""
    parts = [recipe.name, recipe.row or recipe.model.backbone.name]
    parts += [recipe.profile] if recipe.profile != "paper" else []
    parts += [data.label] if data.label else []
    return runs_root() / "-".join(re.sub(r"[^\w.+-]+", "_", part) for part in parts)


def given_weights(text: str) -> str:
    """A file or folder by its absolute path, so that the run can be resumed from elsewhere; a published name as it is."""
    path = Path(text).expanduser()
    return str(path.absolute()) if path.exists() else text


@dataclass(frozen=True)
class Found:
    """Weights that were found for a backbone that the user named without weights."""

    source: str
    """A run folder or a file."""
    why: str
    published_top1: float | None = None
    """Percent, as the publisher prints it."""


def find_weights(backbone: str, data_name: str, place: Path | None) -> Found:
    """The newest finished run of `backbone` on the data, else its published checkpoint, fetched where it is not here.

    `place` is the folder that the data lies in (of `find_data`); None asks for a run on any ImageNet of 1000 classes.
    Raises UsageError when there is neither, PvtctlError when the download fails.
    """
    from pvtctl.engine.run import find_runs
    from pvtctl.weights import fetch, published_for
    from pvtctl.weights.cache import cached_file

    for run in find_runs(runs_root()):
        if _is_run_of(run, backbone, data_name, place):
            return Found(str(run), f"the newest finished run of {backbone} on {data_name}")
    entry = published_for(backbone) if data_name == "imagenet" else None
    if entry is None:
        raise UsageError(
            f"no weights for {backbone}: no finished run of it on {data_name} under {runs_root()}, and none published",
            f"name them with --weights, or train: pvtctl pretrain {data_name} --backbone {backbone}",
        )
    file = cached_file(entry)
    if file is None:
        note(f"weights: no run of {backbone} under {runs_root()}; fetching the published ones from {entry.url}")
        try:
            file = fetch(entry.name)
        except PvtctlError as error:
            hint = f"fetch it elsewhere and name the file with --weights, or train: pvtctl pretrain {data_name}"
            raise PvtctlError(error.message, f"{hint} --backbone {backbone}", exit_code=error.exit_code) from error
    return Found(str(file), f"published by {entry.source}, top-1 {entry.top1} %", entry.top1)


def _is_run_of(run: Path, backbone: str, data_name: str, place: Path | None) -> bool:
    from pvtctl.data import find_data
    from pvtctl.engine.run import read_info
    from pvtctl.recipe.load import load_recipe

    if not ((run / "recipe.yaml").is_file() and (run / "best.safetensors").is_file()):
        return False
    try:
        recipe = load_recipe(run / "recipe.yaml")
    except UsageError as error:
        note(f"{run} is left out of the search: {error.message}")
        return False
    if recipe.model.backbone.name != backbone or recipe.data.name != data_name:
        return False
    if place is None:
        return read_info(run).get("num_classes") == 1000
    try:
        return find_data(data_name, recipe.data.path).resolve() == place.resolve()
    except UsageError:  # its data is no longer there
        return False
