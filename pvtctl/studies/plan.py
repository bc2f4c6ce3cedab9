"""What a study consists of: its rows, their seeds, the pretrainings that they share, and where each of them lies. No torch."""

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
    """Without the weights that it begins from, where `needs` gives them."""
    out: Path
    """Its run folder."""
    needs: str | None = None
    """The name of the pretraining that it begins from."""


@dataclass(frozen=True)
class StudyPlan:
    """A study at one profile, ready to run."""

    study: str
    """As users type it: `vit-vs-pvt`."""
    source: RecipeFile
    about: Study | None
    """Claims and scale; None for a table that is no study."""
    profile: str
    out: Path
    """The study's folder: rows, logs and report. Pretrainings lie beside it, for other studies too."""
    runs: tuple[Run, ...]
    """Each after what it needs."""
    rows: tuple[str, ...]
    """All that the table runs, in its order."""
    picked: tuple[str, ...]
    seeds: int
    weights: Mapping[str, str] = field(default_factory=dict)
    """Row -> what the user gave it to begin from."""
    overrides: tuple[Override, ...] = ()
    """What was changed in all rows' recipes."""
    pretraining_overrides: tuple[Override, ...] = ()
    """The same for the pretrainings."""
    pretrain: bool = False
    """Whether all were to be pretrained here."""

    def row_runs(self, row: str) -> list[Run]:
        """The runs of a row, one a seed."""
        return [run for run in self.runs if run.row == row]

    def pretraining_of(self, run: Run) -> Run | None:
        """The run whose weights `run` begins from."""
        return next((one for one in self.runs if one.name == run.needs), None)

    def find(self, name: str) -> Run:
        """The run of that name. Raises UsageError."""
        for run in self.runs:
            if run.name == name:
                return run
        raise UsageError(f"{self.study} has no run {name!r}", nearest(name, [run.name for run in self.runs]))


def study_names() -> list[str]:
    """The shipped recipes that are studies, as users type them."""
    return [name.replace("_", "-") for name in recipe_names() if read_recipe(name).study is not None]


def read_study(name: str) -> RecipeFile:
    """The recipe of a study: by its name, by the name of any recipe with rows, or by a file.

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
    """The runs of study `name` below the folder `root`.

    `rows` picks some (where it is empty all but those that the study leaves out of profile mini), `seeds` runs each that often (unset: as the study says for profile mini, else
    once). `overrides` change the rows' recipes, `pretraining_overrides` those of the pretrainings. Rows begin from
    `weights[row]`, or from a pretraining of this study's: always on the built-in data, elsewhere where nobody has
    published weights of the backbone, or with `pretrain`.

    Raises UsageError for unknown studies, rows and profiles, and for recipes that cannot run.
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
    """All rows once before any runs again: a study that is cut off has whole rounds."""
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
    """The run that trains the backbone of `recipe` as a classifier, by recipe `name` at the same profile."""
    backbone = recipe.model.backbone
    source = read_recipe(name)
    if recipe.profile not in source.profiles:
        raise UsageError(f"recipe {name} has no profile {recipe.profile!r}", f"it has {', '.join(source.profiles)}")
    rows = source.rows
    row = next((r for r in rows if rows[r].values.get(("model", "backbone", "name")) == backbone.name), None)
    settings: list[Override] = [*overrides, ("model.backbone.width", backbone.width)]
    if row is not None:
        trained = load_recipe(name, row, recipe.profile, settings)
    else:  # the paper's table lacks it: trained like the others, without what is said of the row that stands in
        lent = next(iter(rows), None)
        own = {"name": backbone.name, "width": backbone.width}
        trained = load_recipe(name, lent, recipe.profile, [*overrides, ("model.backbone", own)])
        trained = trained.model_copy(update=_NOTHING_PRINTED)
    label = re.sub(r"[^\w.+-]+", "_", f"{name}-{trained.model.backbone.spec}")
    folder = root / "pretraining" / f"{label}-{recipe.profile}"
    return Run(f"pretraining/{label}", "pretraining", None, trained.train.seed, trained, folder)
