"""The table of `pvtctl.studies.compare`: columns, rows and the best value of each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtctl.cost.counting import Convention, Cost
from pvtctl.io.names import plural
from pvtctl.latency.measure import Case, Latency
from pvtctl.models.registry import find_backbone
from pvtctl.runs.paper_table import data_label, label_of
from pvtctl.runs.read_run import FinishedRun
from pvtctl.studies.claims import lower_is_better
from pvtctl.studies.comparability import images_seen, progress
from pvtctl.tasks.registry import spec_of

MISSING = "-"


@dataclass(frozen=True)
class Subject:
    """One column: a run, or a model without a run."""

    label: str
    case: Case | None
    """The model at its test size, for counting and timing; None: see `problems`."""
    run: FinishedRun | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """The score, in the papers' units."""
    cost: Cost | None = None
    latency: Latency | None = None
    problems: tuple[str, ...] = ()
    """Reasons for missing values."""

    @property
    def model(self) -> str:
        """`pvt_small + retinanet`, or the backbone of a classifier."""
        if self.run is not None:
            backbone, head = self.run.recipe.model.backbone, self.run.recipe.model.head
            return f"{backbone.spec} + {head.name}" if head else backbone.spec
        assert self.case is not None
        return self.case.backbone if self.case.head == "classifier" else f"{self.case.backbone} + {self.case.head}"

    @property
    def family(self) -> str:
        """Family of the backbone; its points share colour and marker."""
        name = self.case.backbone if self.case else self.model.partition(" ")[0]
        spec = find_backbone(name)
        return spec.family if spec is not None else name.partition(":")[0]


@dataclass(frozen=True)
class Row:
    """One figure of all subjects."""

    name: str
    label: str
    values: tuple[float | str | None, ...]
    digits: int | None = None
    """Decimals of numbers; None: unrounded."""
    best: frozenset[int] = frozenset()
    """Columns with the best value, if values are comparable."""

    def cells(self) -> list[str]:
        """The values as text."""
        return [self._cell(value) for value in self.values]

    def _cell(self, value: float | str | None) -> str:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return MISSING
        if isinstance(value, str) or self.digits is None:
            return str(value)
        return f"{value:,.{self.digits}f}".replace(",", " ") if self.digits == 0 else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Comparison:
    """The table, its notes, and the points of its scatter plot."""

    title: str
    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]
    not_comparable: tuple[str, ...]
    """Why no score is marked as the best; empty if they are comparable."""
    notes: tuple[str, ...]
    machine: dict[str, Any]
    """The machine that times were measured on; empty if there are none."""

    def to_dict(self) -> dict[str, Any]:
        """The output of `pvtctl compare --json`."""
        columns = [
            {
                "label": subject.label,
                "model": subject.model,
                "run": str(subject.run.path) if subject.run else None,
                "status": subject.run.status if subject.run else None,
                "score": subject.run.score if subject.run else None,
                "environment": subject.run.environment if subject.run else None,
                "cost": subject.cost.to_dict() if subject.cost else None,
                "latency": subject.latency.to_dict() if subject.latency else None,
                "problems": list(subject.problems),
            }
            for subject in self.subjects
        ]
        rows = [
            {"figure": row.name, "label": row.label, "values": list(row.values), "best": sorted(row.best)}
            for row in self.rows
        ]
        return {
            "title": self.title,
            "columns": columns,
            "rows": rows,
            "not_comparable": list(self.not_comparable),
            "notes": list(self.notes),
            "machine": self.machine,
        }


def score_rows(subjects: Sequence[Subject], *, comparable: bool) -> list[Row]:
    first = next(subject.run for subject in subjects if subject.run and subject.figures)
    assert first is not None
    recipe, spec = first.recipe, spec_of(first.recipe)
    names = dict.fromkeys([spec.main_figure, *(name for subject in subjects for name in subject.figures)])
    rows = []
    for name in names:
        if name == "top1_err" or "_ar" in name:  # redundant with top-1; recalls are in the run's report
            continue
        values = tuple(subject.figures.get(name) for subject in subjects)
        digits = 3 if name == "loss" else spec.digits_of(name)
        best = _best(values, lower=lower_is_better(name)) if comparable else frozenset()
        rows.append(Row(name, label_of(name, recipe), values, digits, best))
    return rows


def cost_rows(subjects: Sequence[Subject], convention: Convention) -> list[Row]:
    costs = [subject.cost for subject in subjects]
    times = [subject.latency for subject in subjects]
    several = len(subjects) > 1
    same_size = several and len({cost.size for cost in costs if cost}) == 1
    same_classes = several and len({cost.num_classes for cost in costs if cost}) == 1
    numbers: list[tuple[str, str, list[float | None], int, bool]] = [
        ("params", "parameters, M", [cost.params / 1e6 if cost else None for cost in costs], 3, same_classes),
        ("macs", f"multiply-adds, G ({convention})", [cost.macs / 1e9 if cost else None for cost in costs], 3, same_size),
    ]  # fmt: skip
    if any(times):
        numbers += [
            ("latency_p50", "latency p50, ms", [time.p50_ms if time else None for time in times], 2, same_size),
            ("latency_p90", "latency p90, ms", [time.p90_ms if time else None for time in times], 2, same_size),
        ]
        memory = [time.peak_memory_bytes / 2**20 if time else None for time in times]
        numbers.append(("peak_memory", "peak memory, MiB", memory, 0, same_size))
    rows = [
        Row(name, label, tuple(values), digits, _best(values, lower=True) if comparable else frozenset())
        for name, label, values, digits, comparable in numbers
    ]
    sizes = tuple(f"{cost.size[0]}x{cost.size[1]}" if cost else None for cost in costs)
    return [*rows, Row("size", "costs at, px", sizes)]


def comparison_run_rows(subjects: Sequence[Subject]) -> list[Row]:
    """Rows on the training of the runs."""
    runs = [subject.run for subject in subjects if subject.run is not None]
    last: list[dict[str, Any]] = [run.environment[-1] if run.environment else {} for run in runs]

    devices = [str(each.get("device") or MISSING) for each in last]
    machines = [
        f"{each.get('cpu', MISSING)}, {plural(int(each.get('threads', 1)), 'thread')}"
        if device in ("cpu", MISSING)
        else device
        for each, device in zip(last, devices, strict=True)
    ]
    rows: list[tuple[str, str, Sequence[float | str | None], int | None]] = [
        ("model", "model", [subject.model for subject in subjects], None),
        ("data", "data", [data_label(run.recipe) for run in runs], None),
        ("images", "images scored", [run.score.get("images") for run in runs], 0),
        ("recipe", "recipe", [":".join(filter(None, (run.recipe.name, run.recipe.row))) for run in runs], None),
        ("profile", "profile", [run.recipe.profile for run in runs], None),
        ("trained", "trained", [progress(run) for run in runs], None),
        ("images_seen", "images seen", [images_seen(run) for run in runs], 0),
        ("weights", "begun from", [_weights(run) for run in runs], None),
        ("seed", "seed", [run.recipe.train.seed for run in runs], 0),
        ("precision", "precision", [run.info.get("precision") for run in runs], None),
        ("training_minutes", "training, min", [_minutes(run) for run in runs], 1),
        ("machine", "trained on", machines, None),
        ("torch", "torch", [each.get("packages", {}).get("torch") for each in last], None),
        ("date", "date", [str(run.info.get("started") or MISSING)[:10] for run in runs], None),
    ]
    if any(run.status != "finished" for run in runs):
        rows.insert(0, ("status", "status", [run.status for run in runs], None))
    return [Row(name, label, tuple(values), digits) for name, label, values, digits in rows]


def _weights(run: FinishedRun) -> str:
    weights = run.recipe.model.weights
    if weights is None:
        return "random"
    path = Path(weights)
    return path.parent.name if path.name == "best.safetensors" else path.name


def _minutes(run: FinishedRun) -> float | None:
    result = run.info.get("result")
    if isinstance(result, dict) and isinstance(result.get("seconds"), int | float):
        return float(result["seconds"]) / 60
    seconds = run.training[-1].get("seconds") if run.training else None
    return float(seconds) / 60 if isinstance(seconds, int | float) else None


def _best(values: Sequence[float | None], *, lower: bool) -> frozenset[int]:
    """Columns with the best number, several if equal; none if there is nothing to compare."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(set(known)) < 2:
        return frozenset()
    best = min(known) if lower else max(known)
    return frozenset(at for at, value in enumerate(values) if value == best)
