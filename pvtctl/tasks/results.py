"""What was measured beside what the paper printed, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pvtctl.cost.counting import count
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.recipe.compare import differences
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe

_FREE = {
    "data.name",  # told apart from changed settings
    "data.path",
    "data.workers",
    "train.batch_size",
    "train.accumulate",
    "train.precision",
    "train.channels_last",
    "train.compile",
    "train.activation_checkpointing",
    "train.seed",
    "train.save_minutes",
    "train.max_minutes",
    "train.keep_checkpoints",
    "train.eval_every",
}
"""Settings of a run that leave its result comparable with the paper's."""

_LABELS = {
    "top1_err": "top-1 error, %",
    "top1_acc": "top-1, %",
    "params_m": "parameters, M (1000 classes)",
    "gmacs": "multiply-adds, G (224 px)",
}


@dataclass(frozen=True)
class Figure:
    """A row of the table of results."""

    name: str
    label: str
    measured: float | None
    paper: float | None
    code: float | None
    """What the official repository states, where that differs from the paper."""
    comparable: bool
    note: str = ""

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
        remark = "" if self.comparable or self.paper is None else "not comparable"
        remark = "; ".join(part for part in (remark, self.note) if part)
        measured = "-" if self.measured is None else f"{self.measured:.2f}"
        return [self.label, measured, _printed(self.paper), _printed(self.code), remark]


_OF_THE_MODEL = ("params_m", "gmacs")
"""Figures that do not depend on what the model was trained on."""

COLUMNS = ["figure", "measured", "paper", "official code", "remark"]


def _printed(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def compare_with_paper(
    recipe: Recipe, numbers: Mapping[str, float], num_classes: int
) -> tuple[list[Figure], list[str]]:
    """The table of a run's results, and why its accuracy may not be compared with the paper's (empty: it may).

    `num_classes` are the data's. `numbers` are fractions as `ClassificationMetric.compute` gives them.
    """
    reasons = differences_from_paper(recipe, numbers, num_classes) if recipe.expect else []
    measured = {"top1_err": 100 * (1 - numbers["top1"]), "top1_acc": 100 * numbers["top1"]} | _cost(recipe)
    figures = []
    for name, printed in sorted(recipe.expect.items(), key=lambda item: item[0] in _OF_THE_MODEL):
        note = printed.note or ""
        comparable = name in _OF_THE_MODEL or not reasons
        label = _LABELS.get(name, name)
        figures.append(Figure(name, label, measured.get(name), printed.paper, printed.code, comparable, note))
    rest = {"top1_acc": measured["top1_acc"], "top5_acc": 100 * numbers["top5"]}
    rest |= {"loss": numbers["loss"], "ece": 100 * numbers["ece"]}
    rest |= {name: measured[name] for name in _OF_THE_MODEL if name in measured}
    labels = _LABELS | {"top5_acc": "top-5, %", "loss": "loss, nats", "ece": "calibration error, %"}
    if "top1_present" in numbers:
        rest["top1_present"] = 100 * numbers["top1_present"]
        labels["top1_present"] = "top-1 among the data's classes, %"
    figures += [Figure(n, labels[n], v, None, None, True) for n, v in rest.items() if n not in recipe.expect]
    return figures, reasons


def _cost(recipe: Recipe) -> dict[str, float]:
    """Parameters and multiply-adds of the classifier that the papers count."""
    try:
        cost = count(recipe.model.backbone.name, (224, 224), convention="paper")
    except PvtctlError:  # a model that takes one other size only
        return {}
    return {"params_m": cost.params / 1e6, "gmacs": cost.macs / 1e9}


def differences_from_paper(recipe: Recipe, numbers: Mapping[str, float], num_classes: int) -> list[str]:
    """What sets a run apart from the experiment of the paper; empty where nothing that counts does."""
    found = []
    if recipe.profile != "paper":
        found.append(f"profile {recipe.profile} (small images, few epochs)")
    if recipe.data.name != "imagenet":
        found.append(f"data {recipe.data.name} instead of ImageNet")
    else:
        found += [f"{num_classes} classes instead of ImageNet's 1000"] if num_classes != 1000 else []
        images = numbers["images"]
        found += [f"{images:.0f} validation images instead of ImageNet's 50 000"] if images < 49_000 else []
    if recipe.profile == "paper":
        changed = changed_settings(recipe)
        found += [f"changed: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"] if changed else []
    return found


def changed_settings(recipe: Recipe) -> list[str]:
    """`key value` of what `--set` changed against the shipped recipe's row; empty for a recipe of the user's own."""
    try:
        shipped = load_recipe(recipe.name, recipe.row)
    except UsageError:
        return []
    return [
        f"{key} {now}"
        for key, (_, now) in differences(shipped, recipe).items()
        if key.split(".")[0] in ("data", "model", "train") and key not in _FREE
    ]


def printed_top1(recipe: Recipe) -> float | None:
    """The paper's top-1 accuracy as a fraction, from whichever figure it printed."""
    for name, sign, offset in (("top1_err", -1, 100.0), ("top1_acc", 1, 0.0)):
        figure = recipe.expect.get(name)
        if figure is not None and figure.paper is not None:
            return (offset + sign * figure.paper) / 100
    return None


def data_label(recipe: Recipe) -> str:
    """What the data is called in titles: `scenes`, `imagenet`, or the folder's own name."""
    return Path(recipe.data.path).name if recipe.data.path else recipe.data.name


def paper_label(recipe: Recipe) -> str:
    """`PVT v1, Table 2`."""
    if recipe.paper is None:
        return "the paper"
    name = {"pvt_v1": "PVT v1", "pvt_v2": "PVT v2", "dpt": "DPT"}[recipe.paper.key]
    part = f"Table {recipe.paper.table}" if recipe.paper.table else f"Figure {recipe.paper.figure}"
    return f"{name}, {part}" if recipe.paper.table or recipe.paper.figure else name


def result_rows(figures: Sequence[Figure]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of results; without the paper's columns where it printed nothing."""
    rows = [figure.cells() for figure in figures]
    if any(figure.paper is not None or figure.code is not None for figure in figures):
        return COLUMNS, rows
    return COLUMNS[:2], [row[:2] for row in rows]
