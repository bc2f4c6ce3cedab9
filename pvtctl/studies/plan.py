"""Plan of a study: rows, seeds, shared pretrainings, and their directories. Does not import torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pvtctl.errors import UsageError, nearest
from pvtctl.recipe.load import Override, load_recipe
from pvtctl.recipe.schema import Recipe, Study
from pvtctl.recipe.source import RecipeFile, read_recipe, recipe_names

DEFAULT_PROFILE = "mini"
_NOTHING_PRINTED: dict[str, Any] = {"row": None, "title": None, "paper": None, "expect": {}, "provenance": {}}


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    name: str
    """`pvt_small/seed0`, or `pretraining/imagenet_pvt_v1-pvt_small`."""
    kind: Literal["row", "pretraining"]
    row: str | None
    seed: int
    recipe: Recipe
    """The recipe, without initial weights if they come from `needs`."""
    out: Path
    """Its run directory."""
    needs: str | None = None
    """Name of the pretraining that it starts from."""


@dataclass(frozen=True)
class StudyPlan:
    """A study at one profile, ready to run."""

    study: str
    """Name on the command line: `vit-vs-pvt`."""
    source: RecipeFile
    about: Study | None
    """Claims and scale; None for a table that is not a study."""
    profile: str
    out: Path
    """The study's directory: rows, logs and report. Pretrainings are next to it, shared with other studies."""
    runs: tuple[Run, ...]
    """All runs, each after the one that it needs."""
    rows: tuple[str, ...]
    """All rows of the table that have a recipe, in its order."""
    picked: tuple[str, ...]
    seeds: int
    weights: Mapping[str, str] = field(default_factory=dict)
    """Row -> initial weights given by the user."""
    overrides: tuple[Override, ...] = ()
    """Overrides of all rows' recipes."""
    pretraining_overrides: tuple[Override, ...] = ()
    """The same for the pretrainings."""
    pretrain: bool = False
    """Whether all backbones are pretrained here."""

    def row_runs(self, row: str) -> list[Run]:
        """The runs of a row, one per seed."""
        return [run for run in self.runs if run.row == row]

    def pretraining_of(self, run: Run) -> Run | None:
        """The run whose weights `run` starts from."""
        return next((one for one in self.runs if one.name == run.needs), None)

    def find(self, name: str) -> Run:
        """The run of that name. Raises UsageError."""
        for run in self.runs:
            if run.name == name:
                return run
        raise UsageError(f"{self.study} has no run {name!r}", nearest(name, [run.name for run in self.runs]))


def study_names() -> list[str]:
    """Names of the shipped studies, as used on the command line."""
    return [name.replace("_", "-") for name in recipe_names() if read_recipe(name).study is not None]


def read_study(name: str) -> RecipeFile:
    """The recipe of a study, by its name, the name of any recipe with rows, or a file.

    Raises UsageError.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        source = read_recipe(name)
    else:
        recipe = name.replace("-", "_")
        if recipe not in recipe_names():
            raise UsageError(f"there is no study {name!r}", f"{nearest(name, study_names())} (pvtctl ablate ls)")
        source = read_recipe(recipe)
    if not source.rows:
        raise UsageError(f"recipe {source.name} has no rows to compare", "pvtctl ablate ls lists the studies")
    return source


def make_study_plan(
    name: str,
    root: Path,
    *,
    profile: str = DEFAULT_PROFILE,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    overrides: Sequence[Override] = (),
    pretraining_overrides: Sequence[Override] = (),
    weights: Mapping[str, str] | None = None,
    pretrain: bool = False,
) -> StudyPlan:
    """Plan the runs of study `name` below the directory `root`.

    Args:
        rows: rows to run; empty: all except those that the study excludes from profile mini.
        seeds: runs per row; default: the study's number for profile mini, else 1.
        overrides: changes to the rows' recipes.
        pretraining_overrides: changes to the recipes of the pretrainings.
        weights: initial weights of rows. Other rows start from a pretraining of the study: always on the built-in data,
            else if there are no published weights of the backbone, or with `pretrain`.

    Raises:
        UsageError: for unknown studies, rows and profiles, and for recipes that cannot run.
    """
    source = read_study(name)
    about = source.study
    for row in [*rows, *(weights or {})]:
        if row not in source.rows:
            raise UsageError(f"{name} has no row {row!r}", nearest(row, list(source.rows)))
    if seeds is not None and not 1 <= seeds <= 100:
        raise UsageError(f"--seeds {seeds} is out of range", "1 to 100")
    if seeds is None:
        seeds = about.seeds if about is not None and profile == "mini" else 1
    left_out = about.left_out if about is not None and profile == "mini" else {}
    picked = tuple(row for row in source.rows if (row in rows if rows else row not in left_out))
    study = source.name.replace("_", "-")
    out = root / f"{study}-{profile}"
    pretrainings: dict[str, Run] = {}
    row_runs: list[Run] = []
    for row in picked:
        first = load_recipe(source.path, row, profile, overrides)
        given = (weights or {}).get(row)
        needs = None
        if given is None and about is not None and about.pretraining and _wants_pretraining(first, pretrain):
            run = _pretraining(about.pretraining, first, root, pretraining_overrides)
            pretrainings.setdefault(run.name, run)
            needs = run.name
        for number in range(seeds):
            settings = [*overrides, ("train.seed", first.train.seed + number)]
            settings += [("model.weights", given)] if given is not None else []
            recipe = load_recipe(source.path, row, profile, settings)
            run_name = f"{row}/seed{recipe.train.seed}"
            row_runs.append(Run(run_name, "row", row, recipe.train.seed, recipe, out / "rows" / run_name, needs))
    runs = (*pretrainings.values(), *_by_seed(row_runs))
    return StudyPlan(
        study,
        source,
        about,
        profile,
        out,
        runs,
        tuple(source.rows),
        picked,
        seeds,
        weights=dict(weights or {}),
        overrides=tuple(overrides),
        pretraining_overrides=tuple(pretraining_overrides),
        pretrain=pretrain,
    )


def _by_seed(runs: list[Run]) -> list[Run]:
    """Order runs by seed, so that an interrupted study has complete rounds of all rows."""
    rounds: dict[str, int] = {}
    order = []
    for run in runs:
        rounds[run.row or ""] = rounds.get(run.row or "", 0) + 1
        order.append((rounds[run.row or ""], run))
    return [run for _, run in sorted(order, key=lambda pair: pair[0])]


def _wants_pretraining(recipe: Recipe, pretrain: bool) -> bool:
    model = recipe.model
    if model.head is None or model.weights is not None or model.init == "scratch":
        return False
    return pretrain or recipe.data.name == "scenes" or not _published(model.backbone.spec)


def _published(backbone: str) -> bool:
    from pvtctl.weights.catalogue import published_for

    return published_for(backbone) is not None


def _pretraining(name: str, recipe: Recipe, root: Path, overrides: Sequence[Override]) -> Run:
    """The run that trains the backbone of `recipe` as a classifier, with recipe `name` at the same profile."""
    backbone = recipe.model.backbone
    source = read_recipe(name)
    if recipe.profile not in source.profiles:
        raise UsageError(f"recipe {name} has no profile {recipe.profile!r}", f"it has {', '.join(source.profiles)}")
    rows = source.rows
    row = next((r for r in rows if rows[r].values.get(("model", "backbone", "name")) == backbone.name), None)
    settings: list[Override] = [*overrides, ("model.backbone.width", backbone.width)]
    if row is not None:
        trained = load_recipe(name, row, recipe.profile, settings)
    else:  # not in the paper's table: trained like the others, without the description of the row used instead
        lent = next(iter(rows), None)
        own = {"name": backbone.name, "width": backbone.width}
        trained = load_recipe(name, lent, recipe.profile, [*overrides, ("model.backbone", own)])
        trained = trained.model_copy(update=_NOTHING_PRINTED)
    label = re.sub(r"[^\w.+-]+", "_", f"{name}-{trained.model.backbone.spec}")
    folder = root / "pretraining" / f"{label}-{recipe.profile}"
    return Run(f"pretraining/{label}", "pretraining", None, trained.train.seed, trained, folder)
