"""What was measured beside what the paper printed, and whether the two may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

    def cells(self) -> list[str]:
        """As text: label, measured, paper, official code, remark."""
        remark = "" if self.comparable or self.paper is None else "not comparable"
        remark = "; ".join(part for part in (remark, self.note) if part)
        return [self.label, _number(self.measured), _number(self.paper), _number(self.code), remark]


COLUMNS = ["figure", "measured", "paper", "official code", "remark"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".") if value >= 0.01 else f"{value:.2g}"


def compare_with_paper(
    recipe: Recipe, numbers: Mapping[str, float], num_classes: int
) -> tuple[list[Figure], list[str]]:
    """The table of a run's results, and why its accuracy may not be compared with the paper's (empty: it may).

    `numbers` are fractions as `ClassificationMetric.compute` gives them.
    """
    reasons = differences_from_paper(recipe, numbers, num_classes) if recipe.expect else []
    measured = {"top1_err": 100 * (1 - numbers["top1"]), "top1_acc": 100 * numbers["top1"]} | _cost(recipe)
    figures = []
    for name, printed in recipe.expect.items():
        fixed = name in ("params_m", "gmacs")  # of the model itself, whatever it was trained on
        note = printed.note or ""
        comparable = fixed or not reasons
        label = _LABELS.get(name, name)
        figures.append(Figure(name, label, measured.get(name), printed.paper, printed.code, comparable, note))
    rest: dict[str, float] = {name: measured[name] for name in ("top1_acc", "params_m", "gmacs") if name in measured}
    rest |= {"top5_acc": 100 * numbers["top5"], "loss": numbers["loss"], "ece": 100 * numbers["ece"]}
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
    elif num_classes != 1000 or numbers["images"] < 49_000:
        found.append(f"{num_classes} classes and {numbers['images']:.0f} images instead of ImageNet's 1000 and 50 000")
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
