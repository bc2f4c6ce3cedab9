"""Measured figures next to the paper's, and whether they are comparable."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.names import plural
from pvtctl.io.urls import bare
from pvtctl.recipe.load import load_recipe, recipe_differences
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import recipe_names
from pvtctl.tasks.registry import spec_of

_FREE = {
    *(f"data.{key}" for key in ("name", "path", "workers")),  # another data set is reported by itself
    *(f"data.{split}_{kind}" for split in ("train", "val") for kind in ("images", "annotations")),
    *("data.segmentation.classes", "data.depth.split_file", "data.depth.train_split_file"),
    *(f"train.{key}" for key in ("batch_size", "accumulate", "precision", "channels_last", "compile", "seed")),
    *(f"train.{key}" for key in ("activation_checkpointing", "save_minutes", "max_minutes", "keep_checkpoints")),
    *("train.eval_every", "eval.batch_size", "eval.backend"),
}
"""Settings that do not affect whether a result is comparable with the paper's."""


def label_of(name: str, recipe: Recipe) -> str:
    """Label of a figure in tables; figures of the model name the conditions they are stated for."""
    if recipe.model.head is None:
        labels = {"params_m": "parameters, M (1000 classes)", "gmacs": "multiply-adds, G (224 px)"}
    else:
        counted = _ORIGINALS.get(original_data(recipe)) if recipe.expect else None
        classes = f" ({plural(counted.classes, 'class')})" if counted and counted.classes else ""
        height, width = spec_of(recipe).sizes(recipe).counted
        labels = {"params_m": f"parameters, M{classes}", "gmacs": f"multiply-adds, G ({height}x{width})"}
        labels |= dict.fromkeys(("latency_ms", "time_ms"), "latency, ms")
    return labels.get(name) or spec_of(recipe).figure(name).label


@dataclass(frozen=True)
class ComparedFigure:
    """A row of the results table."""

    name: str
    label: str
    measured: float | None
    paper: float | None
    code: float | None
    """Value in the official repository, if it differs from the paper's."""
    comparable: bool
    note: str = ""
    digits: int = 2

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "figure": self.name,
            "measured": self.measured,
            "paper": self.paper,
            "code": self.code,
            "comparable": self.comparable,
        }

    def cells(self) -> list[str]:
        """As text: label, measured, paper, official code, remark."""
        stated = self.paper is not None or self.code is not None
        remark = "not comparable" if stated and not self.comparable else ""
        remark = "; ".join(part for part in (remark, self.note) if part)
        known = self.measured is not None and math.isfinite(self.measured)
        measured = f"{self.measured:.{self.digits}f}" if known else "-"
        printed = ["-" if value is None else f"{value:g}" for value in (self.paper, self.code)]
        return [self.label, measured, *printed, remark]


_OF_THE_MODEL = ("params_m", "gmacs")
"""Figures that do not depend on the training data."""

COLUMNS = ["figure", "measured", "paper", "official code", "remark"]


def compare_with_paper(
    recipe: Recipe, numbers: Mapping[str, float], num_classes: int
) -> tuple[list[ComparedFigure], list[str]]:
    """The results table of a run, and why its accuracy is not comparable with the paper's (empty: it is).

    `num_classes` is that of the data. `numbers` are fractions, as from `ClassificationMetric.compute`.
    """
    reasons = differences_from_paper(recipe, numbers, num_classes) if recipe.expect else []
    of_row = is_printed_model(recipe)
    spec, counted = spec_of(recipe), recipe if of_row else recipe.model_copy(update={"expect": {}})
    measured = spec.shown_figures(numbers) | model_cost(counted, num_classes)
    expected = sorted(recipe.expect, key=lambda name: name in _OF_THE_MODEL)
    others = [name for name in measured if name not in recipe.expect and name != "top1_err"]  # redundant with top-1
    figures = []
    for name in (*expected, *others):
        printed = recipe.expect.get(name)
        figures.append(
            ComparedFigure(
                name,
                label_of(name, counted),
                measured.get(name),
                printed.paper if printed else None,
                printed.code if printed else None,
                comparable=printed is None or (of_row if name in _OF_THE_MODEL else not reasons),
                note=(printed.note if printed else None) or "",
                digits=spec.digits_of(name),
            )
        )
    return figures, reasons


def model_cost(recipe: Recipe, num_classes: int) -> dict[str, float]:
    """Parameters and multiply-adds of the model as counted in the papers; parameters only, for a detector of no paper.

    A paper's row that was trained at a smaller width (`model.backbone.width`) is counted at full width, for comparison
    with the published figures. A dense model has the classes of the paper's data where the paper has figures. The
    papers do not count the frozen stem and stage.
    """
    original = _ORIGINALS.get(original_data(recipe)) if recipe.expect else None
    spec, classes = spec_of(recipe), original.classes if original is not None else num_classes
    model = recipe.model.plain_values() | {"init": None, "weights": None}
    key = (spec.name, json.dumps(model), spec.sizes(recipe).counted, bool(recipe.expect), classes)
    if key not in _COUNTED:
        try:
            _COUNTED[key] = spec.model_cost(recipe, classes)
        except PvtctlError:  # a model with a fixed, different input size
            _COUNTED[key] = {}
    return dict(_COUNTED[key])


_COUNTED: dict[tuple[object, ...], dict[str, float]] = {}
"""What `model_cost` has counted in this process: a study's runs and reports ask for the same models."""


@dataclass(frozen=True)
class _Original:
    """The validation data of a paper's scores."""

    label: str
    classes: int
    """0: depth."""
    images: int


_ORIGINALS = {
    "imagenet": _Original("ImageNet", 1000, 50_000),
    "coco": _Original("COCO", 80, 5_000),
    "ade20k": _Original("ADE20K", 150, 2_000),
    "pascal_context": _Original("Pascal Context", 60, 5_105),
    "nyu": _Original("NYUv2", 0, 654),
    "kitti": _Original("KITTI", 0, 652),
}


@lru_cache(maxsize=64)
def _shipped(name: str, row: str | None, profile: str) -> Recipe | None:
    """A row of a built-in recipe, if there is one."""
    if name not in recipe_names():
        return None
    try:
        return load_recipe(name, row, profile)
    except UsageError:
        return None


def _source_of_figures(recipe: Recipe) -> str | None:
    """The built-in recipe that the published figures are from: of the same name, or the one that a user's file is a copy of."""
    names = [recipe.name, *(recipe_names() if recipe.expect and recipe.name not in recipe_names() else ())]
    found = ((name, _shipped(name, recipe.row, "paper")) for name in names)
    return next((name for name, row in found if row and (row.name == recipe.name or row.expect == recipe.expect)), None)


def shipped_row(recipe: Recipe, profile: str = "paper") -> Recipe | None:
    """The row of the built-in recipe that the run's published figures are from; None for a user's own figures."""
    name = _source_of_figures(recipe)
    return _shipped(name, recipe.row, profile) if name else None


def original_data(recipe: Recipe) -> str:
    """The data set of the paper's scores: that of the shipped recipe."""
    row = shipped_row(recipe)
    return row.data.name if row else spec_of(recipe).usual_data


def is_printed_model(recipe: Recipe) -> bool:
    """Whether backbone, head and their options are those of the row that the published figures are of, or what the
    run's profile makes of them."""
    if not recipe.expect:
        return False
    rows = [row for profile in ("paper", recipe.profile) if (row := shipped_row(recipe, profile)) is not None]
    return not rows or any(_same_model(recipe, row) for row in rows)


def _same_model(one: Recipe, other: Recipe) -> bool:
    """Equal settings but for drop path, or the same names and parameters: a checkpoint also states what is a default."""
    settings = [
        (each.model.backbone.model_copy(update={"drop_path_rate": 0.0}), each.model.head) for each in (one, other)
    ]
    if settings[0] == settings[1]:
        return True
    heads = [head.said() if head else {} for _, head in settings]
    names = [(backbone.spec, head and head.name) for backbone, head in settings]
    differ = any(heads[0][key] != heads[1][key] for key in heads[0].keys() & heads[1].keys())
    return names[0] == names[1] and not differ and _shapes(one) == _shapes(other)


def _shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    from pvtctl.models.layers.shapes import without_values
    from pvtctl.weights.describe import HeadClasses

    with without_values():
        model = spec_of(recipe).new_model(recipe, HeadClasses(10 if spec_of(recipe).has_classes else 0, None))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _model_in_words(recipe: Recipe) -> str:
    """`pvt_small@0.25 + semantic_fpn (width 64)`: the options that the row does not have."""
    row, head = shipped_row(recipe), recipe.model.head
    if head is None:
        return recipe.model.backbone.spec
    theirs = row.model.head.said() if row and row.model.head and row.model.head.name == head.name else {}
    options = [f"{key} {value}" for key, value in head.said().items() if theirs.get(key) != value]
    return f"{recipe.model.backbone.spec} + {head.name}" + (f" ({', '.join(options)})" if theirs and options else "")


def differences_from_paper(recipe: Recipe, numbers: Mapping[str, float], num_classes: int) -> list[str]:
    """Relevant differences between a run and the paper's experiment."""
    name = original_data(recipe)
    original = _ORIGINALS.get(name)
    found: list[str] = []
    told: tuple[str, ...] = ()
    if recipe.profile != "paper":
        found.append(f"profile {recipe.profile} (small images, few epochs)")
    if recipe.data.name != name:
        found.append(f"data {recipe.data.name} instead of {original.label if original else name}")
    elif original is not None:
        if num_classes != original.classes:
            found.append(f"{plural(num_classes, 'class')} instead of {original.label}'s {original.classes}")
        images = numbers["images"]
        if images < 0.98 * original.images:  # a few files may be unreadable
            thousands = f"{original.images:,}".replace(",", " ")
            found.append(f"{images:.0f} validation images instead of {original.label}'s {thousands}")
    if not is_printed_model(recipe) and (row := shipped_row(recipe)) is not None:
        found.append(f"{_model_in_words(recipe)} instead of {_model_in_words(row)}")
        told = ("model.backbone.", "model.head.")
    if recipe.profile == "paper" and (
        changed := [each for each in changed_settings(recipe) if not each.startswith(told)]
    ):
        found.append(f"changed: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}")
    return found


def changed_settings(recipe: Recipe) -> list[str]:
    """`key value` of each setting changed against the built-in recipe's row; empty for a user's own figures."""
    shipped = shipped_row(recipe)
    if shipped is None:
        return []
    return [
        f"{key} {now}"
        for key, (_, now) in recipe_differences(shipped, recipe).items()
        if key.split(".")[0] in ("data", "model", "train", "eval") and key not in _FREE
    ]


def printed_score(recipe: Recipe) -> float | None:
    """The paper's main score as a fraction: top-1 accuracy (also from a published error), box AP, mIoU or delta."""
    for name, sign, offset in (("top1_err", -1, 100.0), ("top1_acc", 1, 0.0), ("box_ap", 1, 0.0), ("miou", 1, 0.0)):
        figure = recipe.expect.get(name)
        if figure is not None and figure.paper is not None:
            return (offset + sign * figure.paper) / 100
    delta = recipe.expect.get("delta1")
    return delta.paper if delta is not None else None


def data_label(recipe: Recipe) -> str:
    """Name of the data in titles: `scenes`, `imagenet`, or the name of the directory or annotation file."""
    if recipe.data.val_annotations:
        return Path(recipe.data.val_annotations).stem
    if recipe.data.url is not None:
        return Path(bare(recipe.data.url)).name
    return Path(recipe.data.path).name if recipe.data.path else recipe.data.name


def paper_label(recipe: Recipe) -> str:
    """`PVT v1, Table 2`."""
    if recipe.paper is None:
        return "the paper"
    name = {"pvt_v1": "PVT v1", "pvt_v2": "PVT v2", "dpt": "DPT"}[recipe.paper.key]
    part = f"Table {recipe.paper.table}" if recipe.paper.table else f"Figure {recipe.paper.figure}"
    return f"{name}, {part}" if recipe.paper.table or recipe.paper.figure else name


def result_rows(figures: Sequence[ComparedFigure]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the results table; without the paper's columns if it has no figures."""
    rows = [figure.cells() for figure in figures]
    if any(figure.paper is not None or figure.code is not None for figure in figures):
        return COLUMNS, rows
    return COLUMNS[:2], [row[:2] for row in rows]
