"""Measured figures next to the paper's, and whether they are comparable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.recipe.load import load_recipe, recipe_differences
from pvtctl.recipe.schema import Recipe
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
        classes = f" ({counted.classes} classes)" if counted and counted.classes else ""
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
    spec = spec_of(recipe)
    measured = spec.shown_figures(numbers) | model_cost(recipe, num_classes)
    expected = sorted(recipe.expect, key=lambda name: name in _OF_THE_MODEL)
    others = [name for name in measured if name not in recipe.expect and name != "top1_err"]  # redundant with top-1
    figures = []
    for name in (*expected, *others):
        printed = recipe.expect.get(name)
        figures.append(
            ComparedFigure(
                name,
                label_of(name, recipe),
                measured.get(name),
                printed.paper if printed else None,
                printed.code if printed else None,
                comparable=printed is None or name in _OF_THE_MODEL or not reasons,
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
    try:
        return spec_of(recipe).model_cost(recipe, original.classes if original is not None else num_classes)
    except PvtctlError:  # a model with a fixed, different input size
        return {}


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


def original_data(recipe: Recipe) -> str:
    """The data set of the paper's scores: that of the shipped recipe."""
    try:
        return load_recipe(recipe.name, recipe.row).data.name
    except UsageError:
        return spec_of(recipe).usual_data


def differences_from_paper(recipe: Recipe, numbers: Mapping[str, float], num_classes: int) -> list[str]:
    """Relevant differences between a run and the paper's experiment."""
    name = original_data(recipe)
    original = _ORIGINALS.get(name)
    found = []
    if recipe.profile != "paper":
        found.append(f"profile {recipe.profile} (small images, few epochs)")
    if recipe.data.name != name:
        found.append(f"data {recipe.data.name} instead of {original.label if original else name}")
    elif original is not None:
        if num_classes != original.classes:
            found.append(f"{num_classes} classes instead of {original.label}'s {original.classes}")
        images = numbers["images"]
        if images < 0.98 * original.images:  # a few files may be unreadable
            thousands = f"{original.images:,}".replace(",", " ")
            found.append(f"{images:.0f} validation images instead of {original.label}'s {thousands}")
    if recipe.profile == "paper" and (changed := changed_settings(recipe)):
        found.append(f"changed: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}")
    return found


def changed_settings(recipe: Recipe) -> list[str]:
    """`key value` of each setting changed against the shipped recipe's row; empty for a user's recipe."""
    try:
        shipped = load_recipe(recipe.name, recipe.row)
    except UsageError:
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
