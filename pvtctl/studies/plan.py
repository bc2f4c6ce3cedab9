"""Plan of a study: rows, seeds, shared pretrainings, and their directories. Does not import torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pvtctl.errors import UsageError, nearest
from pvtctl.extensions import command_words
from pvtctl.recipe.load import Override, load_recipe
from pvtctl.recipe.scale import profile_changes
from pvtctl.recipe.schema import Recipe, Study
from pvtctl.recipe.source import RecipeFile, read_recipe, recipe_names
from pvtctl.runs.paths import absolute_place, given_weights

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
class StudyRequest:
    """Options that define the runs of a study. Every process of the study gets the same ones."""

    study: str
    """A name from `pvtctl ablate ls`, any recipe with rows, or the path of a YAML file."""
    root: Path
    """The directory of all studies, which share pretrainings."""
    profile: str | None = None
    """Default: mini; for a file that is not built in paper, its settings as they are."""
    rows: Sequence[str] = ()
    """Empty: all except those that the study excludes from profile mini."""
    seeds: int | None = None
    """Runs per row; default: the study's number for profile mini, else 1."""
    data: Path | str | None = None
    """Directory of the study's data, or the URL of tar shards; default: `$PVTCTL_DATA/NAME`, then `data/NAME`."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Row -> initial weights: a checkpoint file, run directory or published name. Other rows start from a pretraining
    of the study: always on the built-in data, else if there are no published weights of the backbone."""
    overrides: Sequence[Override] = ()
    """Changes to all rows' recipes: `key.path=value`."""
    pretraining_overrides: Sequence[Override] = ()
    """The same for the pretrainings."""
    pretrain: bool = False
    """Pretrain all backbones, even if there are published weights."""

    @property
    def row_overrides(self) -> list[Override]:
        """`overrides`, with the directory of the data."""
        return [*([("data.path", absolute_place(self.data))] if self.data else []), *self.overrides]

    @property
    def row_weights(self) -> dict[str, str]:
        """`weights`, with absolute paths of files and directories."""
        return {row: given_weights(source) for row, source in self.weights.items()}

    def words(self) -> list[str]:
        """Arguments of `pvtctl ablate` for the same plan, from any directory."""
        words = [str(_absolute(Path(self.study))) if _is_file(self.study) else self.study]
        words += [*(["--profile", self.profile] if self.profile else []), "--out", str(_absolute(self.root))]
        words += ["--rows", ",".join(self.rows)] if self.rows else []
        words += ["--seeds", str(self.seeds)] if self.seeds is not None else []
        words += ["--data", absolute_place(self.data)] if self.data else []
        for option, values in (
            ("--weights", [f"{row}={source}" for row, source in self.row_weights.items()]),
            ("--set", self.overrides),
            ("--set-pretraining", self.pretraining_overrides),
        ):
            words += [word for value in values for word in (option, as_typed(value))]
        return [*words, *(["--pretrain"] if self.pretrain else []), *command_words()]

    def plan(self) -> StudyPlan:
        """The runs. Raises UsageError for unknown studies, rows and profiles, and for recipes that cannot run."""
        source, weights = read_study(self.study), self.row_weights
        about, profile = source.study, self.profile or (DEFAULT_PROFILE if source.built_in else "paper")
        for row in [*self.rows, *weights]:
            if row not in source.rows:
                raise UsageError(f"{self.study} has no row {row!r}", nearest(row, list(source.rows)))
        if self.seeds is not None and not 1 <= self.seeds <= 100:
            raise UsageError(f"--seeds {self.seeds} is out of range", "1 to 100")
        at_mini = about if profile == "mini" else None
        seeds = self.seeds or (at_mini.seeds if at_mini else 1)
        left_out = at_mini.left_out if at_mini else {}
        picked = tuple(row for row in source.rows if (row in self.rows if self.rows else row not in left_out))
        out = self.root / f"{source.name.replace('_', '-')}-{profile}"
        pretrainings: dict[str, Run] = {}
        rounds: list[list[Run]] = [[] for _ in range(seeds)]
        for row in picked:
            first = load_recipe(source.path, row, profile, self.row_overrides)
            needs = None
            if row not in weights and about and about.pretraining and _wants_pretraining(first, self.pretrain):
                run = _pretraining(about.pretraining, first, self.root, self.pretraining_overrides)
                pretrainings.setdefault(run.name, run)
                needs = run.name
            for number in range(seeds):
                settings = [*self.row_overrides, ("train.seed", first.train.seed + number)]
                settings += [("model.weights", weights[row])] if row in weights else []
                recipe = load_recipe(source.path, row, profile, settings)
                name = f"{row}/seed{recipe.train.seed}"
                rounds[number].append(Run(name, "row", row, recipe.train.seed, recipe, out / "rows" / name, needs))
        # by seed, so that an interrupted study has complete rounds of all rows
        runs = (*pretrainings.values(), *(run for each in rounds for run in each))
        return StudyPlan(self, source, profile, out, runs, picked, seeds)


def as_typed(override: Override) -> str:
    """An override as on the command line."""
    return override if isinstance(override, str) else f"{override[0]}={json.dumps(override[1])}"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _is_file(study: str) -> bool:
    return "/" in study or study.endswith((".yaml", ".yml"))


@dataclass(frozen=True)
class StudyPlan:
    """A study at one profile, ready to run."""

    request: StudyRequest
    source: RecipeFile
    profile: str
    out: Path
    """The study's directory: rows, logs and report. Pretrainings are next to it, shared with other studies."""
    runs: tuple[Run, ...]
    """All runs, each after the one that it needs."""
    picked: tuple[str, ...]
    seeds: int

    @property
    def study(self) -> str:
        """Name on the command line: `vit-vs-pvt`."""
        return self.source.name.replace("_", "-")

    @property
    def about(self) -> Study | None:
        """Claims and scale; None for a table that is not a study."""
        return self.source.study

    @cached_property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """What the profile changes of the rows' data, samples, image sizes and width: values without and with it."""
        scaled = [row for row in self.picked[1:] if (self.profile, row) in self.source.scaled_rows]
        found: dict[str, tuple[Any, Any]] = {}
        for row in [*self.picked[:1], *scaled]:
            found = profile_changes(self.source.path, row, self.profile, self.request.row_overrides) | found
        return found

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows of the table that have a recipe, in its order."""
        return tuple(self.source.rows)

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
    if _is_file(name):
        source = read_recipe(name)
    else:
        recipe = name.replace("-", "_")
        if recipe not in recipe_names():
            raise UsageError(f"there is no study {name!r}", f"{nearest(name, study_names())} (pvtctl ablate ls)")
        source = read_recipe(recipe)
    if not source.rows:
        raise UsageError(f"recipe {source.name} has no rows to compare", "pvtctl ablate ls lists the studies")
    return source


def _wants_pretraining(recipe: Recipe, pretrain: bool) -> bool:
    model = recipe.model
    if model.head is None or model.weights is not None or model.init == "scratch":
        return False
    if pretrain or recipe.data.name == "scenes":
        return True
    from pvtctl.weights.catalogue import published_for

    return published_for(model.backbone.spec) is None


def _pretraining(name: str, recipe: Recipe, root: Path, overrides: Sequence[Override]) -> Run:
    """The run that trains the backbone of `recipe` as a classifier, with recipe `name` at the same profile."""
    backbone = recipe.model.backbone
    source = read_recipe(name)
    if recipe.profile not in source.profiles:
        raise UsageError(f"recipe {name} has no profile {recipe.profile!r}", f"it has {', '.join(source.profiles)}")
    rows = source.rows
    row = next((r for r in rows if rows[r].values.get(("model", "backbone", "name")) == backbone.name), None)
    settings: list[Override] = [
        *overrides,
        ("model.backbone.width", backbone.width),
        ("model.backbone.options", backbone.options.said),
    ]
    if row is not None:
        trained = load_recipe(name, row, recipe.profile, settings)
    else:  # not in the paper's table: trained like the others, without the description of the row used instead
        lent = next(iter(rows), None)
        own = {"name": backbone.name, "width": backbone.width, "options": backbone.options.said}
        trained = load_recipe(name, lent, recipe.profile, [*overrides, ("model.backbone", own)])
        trained = trained.model_copy(update=_NOTHING_PRINTED)
    label = re.sub(r"[^\w.+-]+", "_", f"{name}-{trained.model.backbone.spec}")
    folder = root / "pretraining" / f"{label}-{recipe.profile}"
    return Run(f"pretraining/{label}", "pretraining", None, trained.train.seed, trained, folder)
