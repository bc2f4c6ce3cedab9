"""Which models or runs are within a budget of time, multiply-adds, parameters or memory, the best score first."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pvtctl.cost.counting import Convention, Cost, count
from pvtctl.errors import PvtctlError, UsageError
from pvtctl.io.files import without_nan, write_text
from pvtctl.io.machine import BYTE_UNITS, number_and_unit
from pvtctl.io.tables import Strong, csv_text, markdown_line, markdown_table
from pvtctl.latency.measure import Case, Latency
from pvtctl.models.registry import backbone_specs, find_head
from pvtctl.recipe.load import load_recipe, rows_of
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import paper_label
from pvtctl.studies.cases import time_cases
from pvtctl.studies.compare import LatencySettings, compare_runs
from pvtctl.studies.comparison import Subject
from pvtctl.tasks.registry import spec_of, task_spec
from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters
from pvtctl.weights.catalogue import published_for

Kind = Literal["latency", "macs", "params", "memory"]
LABELS: dict[Kind, str] = {
    "latency": "latency p50, ms",
    "macs": "multiply-adds, G",
    "params": "parameters, M",
    "memory": "peak memory, MiB",
}
_UNITS: dict[str, tuple[Kind, float]] = {
    "ms": ("latency", 1.0),
    "s": ("latency", 1000.0),
    "mmacs": ("macs", 1e-3),
    "gmacs": ("macs", 1.0),
    "tmacs": ("macs", 1e3),
    "k": ("params", 1e-3),
    "m": ("params", 1.0),
    "kparams": ("params", 1e-3),
    "mparams": ("params", 1.0),
    "bparams": ("params", 1e3),
    **{unit: ("memory", size / 2**20) for unit, size in BYTE_UNITS.items()},
}
_CLASSIFIERS = ("imagenet_pvt_v1", "imagenet_pvt_v2")
"""The tables of classifiers, all at 224 pixels on ImageNet."""
_CLASSIFIER_SIZE = (224, 224)
_AT_ONCE = 6
"""Models timed in turns: each is a process."""


@dataclass(frozen=True)
class Limit:
    """The most that a model may cost, in the unit of LABELS."""

    kind: Kind
    value: float
    text: str
    """As the user wrote it."""


def parse_limits(texts: Sequence[str]) -> list[Limit]:
    """`30ms`, `5GMACs`, `25M` (parameters), `500MiB`. Raises UsageError, also for two limits of one kind."""
    limits: list[Limit] = []
    for text in texts:
        number, unit = number_and_unit(text) or (0.0, "")
        if unit not in _UNITS:
            hint = "a MAC is two FLOPs: write half as many GMACs" if "flop" in unit else "30ms, 5GMACs, 25M or 500MiB"
            raise UsageError(f"--budget {text} is no time, multiply-adds, parameters or memory", hint)
        kind, factor = _UNITS[unit]
        if any(limit.kind == kind for limit in limits):
            raise UsageError(f"--budget {text} is a second limit of the {LABELS[kind].partition(',')[0]}", "name one")
        limits.append(Limit(kind, number * factor, text.strip()))
    return limits


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model at a size, or a run. Each is a key of its own."""

    name: str
    size: tuple[int, int]
    family: str
    cost: Cost
    latency: Latency | None = None
    score: float | None = None
    source: str = ""
    """Where the score is from."""

    def value(self, kind: Kind) -> float | None:
        """A cost in the unit of LABELS; None if it was not measured."""
        if kind == "params":
            return self.cost.params / 1e6
        if kind == "macs":
            return self.cost.macs / 1e9
        if self.latency is None:
            return None
        return self.latency.p50_ms if kind == "latency" else self.latency.peak_memory_bytes / 2**20

    def within(self, limits: Sequence[Limit]) -> bool:
        """Whether no known cost is over its limit."""
        values = [(self.value(limit.kind), limit.value) for limit in limits]
        return all(value is None or value <= most for value, most in values)


@dataclass(frozen=True)
class Selection:
    """The candidates within a budget, the best first, and those over it."""

    limits: Sequence[Limit]
    within: Sequence[Candidate]
    over: Sequence[Candidate]
    score_label: str
    higher_is_better: bool
    ranked: bool
    """False: there is no score, or scores are not comparable; the cheapest are first."""
    notes: Sequence[str]
    machine: dict[str, Any]


def select_models(
    backbones: Sequence[str] | None,
    limits: Sequence[Limit],
    *,
    head: str = "classifier",
    sizes: Sequence[tuple[int, int]] | None = None,
    convention: Convention = "ops",
    timing: LatencySettings,
) -> Selection:
    """The backbones (None: all of `pvtctl models ls`) with `head` that are within the limits at these sizes.

    Unset sizes are those of the published scores. Models are timed only if a limit needs it, and those that are over a
    counted limit are not. Raises UsageError if no model can be counted.
    """
    published = _published(head)
    chosen = [published.size] if sizes is None else list(sizes)
    names = [spec.name for spec in backbone_specs()] if backbones is None else list(backbones)
    found, problems = [], []
    for name in names:
        for size in chosen:
            try:
                cost = count(name, size, head=head, convention=convention)
            except (PvtctlError, RuntimeError) as error:
                problems.append(f"{name} at {size[0]}x{size[1]} is left out: {str(error).splitlines()[0]}")
                continue
            score, source = published.scores.get(name, (None, "")) if size == published.size else (None, "")
            case = Subject(name, Case(name, size, head=head))
            found.append(Candidate(name, size, case.family, cost, score=score, source=source))
    if not found:
        raise UsageError("no model could be counted", problems[0] if problems else "name a --backbone")
    cases = {one: Case(one.name, one.size, head=head) for one in found if one.within(limits)}
    machine: dict[str, Any] = {}
    if any(limit.kind in ("latency", "memory") for limit in limits):
        found, machine, failed = _timed(found, cases, timing)
        problems += failed
    notes = [*_score_notes(found, published, chosen), *problems]
    return _selection(found, limits, published.label, published.higher_is_better, True, notes, machine)


def select_runs(
    paths: Sequence[Path | str], limits: Sequence[Limit], *, convention: Convention, timing: LatencySettings
) -> Selection:
    """The run directories that are within the limits, by their measured score. Raises UsageError as `compare_runs`."""
    needed = any(limit.kind in ("latency", "memory") for limit in limits)
    compared = compare_runs(paths, convention=convention, timing=timing if needed else None)
    spec = spec_of(next(subject.run.recipe for subject in compared.subjects if subject.run))
    figure = spec.figure(spec.main_figure)
    found, problems = list[Candidate](), list[str]()
    for subject in compared.subjects:
        if subject.cost is None or (needed and subject.latency is None):
            problems.append(f"{subject.label} is left out: what is limited could not be measured")
            continue
        size, score = subject.cost.size, subject.figures.get(spec.main_figure)
        found.append(Candidate(subject.label, size, subject.family, subject.cost, subject.latency, score, "measured"))
    notes = [*problems, *(f"not comparable: {reason}" for reason in compared.not_comparable), *compared.notes]
    ranked = not compared.not_comparable
    return _selection(found, limits, figure.label, not figure.lower_is_better, ranked, notes, compared.machine)


def _timed(
    found: Sequence[Candidate], cases: dict[Candidate, Case], timing: LatencySettings
) -> tuple[list[Candidate], dict[str, Any], list[str]]:
    """The candidates with their latencies; the machine, and what could not be timed."""
    groups = []
    for size in dict.fromkeys(case.size for case in cases.values()):
        own = [case for case in cases.values() if case.size == size]
        groups += [own[at : at + _AT_ONCE] for at in range(0, len(own), _AT_ONCE)]
    times, failed, machine = time_cases(groups, strict=False, **vars(timing))
    problems = [f"{case.backbone} is left out: {why}" for case, why in failed.items()]
    kept = [one for one in found if one not in cases or cases[one] in times]
    return [replace(one, latency=times[cases[one]]) if one in cases else one for one in kept], machine, problems


@dataclass(frozen=True)
class _Published:
    """The published scores with a head: backbone -> score and source, all at one size."""

    label: str
    higher_is_better: bool
    size: tuple[int, int]
    scores: dict[str, tuple[float, str]]


def _published(head: str) -> _Published:
    """The main score in the papers' table of the head; of classifiers also what the publishers of weights say."""
    above = find_head(head)
    task = "classification" if above is None else above.task_of(None)
    spec = task_spec(task)
    figure = spec.figure(spec.main_figure)
    table = None if above is None else above.recipes.get(task)
    scores: dict[str, tuple[float, str]] = {}
    size = _CLASSIFIER_SIZE if above is None else (above.sizes.get(task, 224),) * 2
    for name in _CLASSIFIERS if head == "classifier" else [table] if table else []:
        for row in rows_of(name):
            recipe = load_recipe(name, row)
            value = _printed(recipe, spec.main_figure)
            if (
                value is None
                or recipe.model.backbone.spec != recipe.model.backbone.name
                or (recipe.model.head is None) != (above is None)
            ):
                continue
            if recipe.model.head is not None and recipe.model.head.name != head:
                continue
            scores.setdefault(recipe.model.backbone.name, (value, paper_label(recipe)))
            size = _CLASSIFIER_SIZE if above is None else spec.sizes(recipe).counted
    for each in backbone_specs() if head == "classifier" else []:
        entry = published_for(each.name)
        if entry is not None and entry.data == "ImageNet-1K" and "top1" in entry.figures:
            scores.setdefault(each.name, (entry.figures["top1"], entry.source))
    return _Published(figure.label, not figure.lower_is_better, size, scores)


def _printed(recipe: Recipe, figure: str) -> float | None:
    """A paper's figure of a row; accuracy also from an error."""
    for name, sign, offset in ((figure, 1, 0.0), *([("top1_err", -1, 100.0)] if figure == "top1_acc" else [])):
        value = recipe.expect.get(name)
        if value is not None and value.paper is not None:
            return offset + sign * value.paper
    return None


def _score_notes(found: Sequence[Candidate], published: _Published, sizes: Sequence[tuple[int, int]]) -> list[str]:
    at = "{}x{}".format(*published.size)
    if all(one.score is None for one in found):
        measured = ", ".join("{}x{}".format(*size) for size in sizes)
        other = f": those at {at} are of other images" if published.scores and published.size not in sizes else ""
        return [f"no score of these models was published at {measured}, so nothing is ranked{other}"]
    missing = [one.name for one in found if one.score is None]
    notes = [f"scores are published ones at {at}, each with its own training: {published.label}"]
    if missing:
        notes.append(f"without a published score at that size, not ranked: {', '.join(dict.fromkeys(missing))}")
    return notes


def _selection(
    found: Sequence[Candidate],
    limits: Sequence[Limit],
    label: str,
    higher: bool,
    comparable: bool,
    notes: Sequence[str],
    machine: dict[str, Any],
) -> Selection:
    ranked = comparable and any(one.score is not None for one in found)

    def order(one: Candidate) -> tuple[float, float]:
        cost = one.value(limits[0].kind)
        score = one.score if ranked else None
        return math.inf if score is None else -score if higher else score, math.inf if cost is None else cost

    within = sorted((one for one in found if one.within(limits)), key=order)
    over = sorted((one for one in found if not one.within(limits)), key=order)
    told = [f"over the budget: {', '.join(_name(one) for one in over)}"] if over else []
    if not within:
        told.insert(0, f"nothing is within {' and '.join(limit.text for limit in limits)}")
    return Selection(limits, within, over, label, higher, ranked, [*told, *notes], machine)


def _name(one: Candidate) -> str:
    return f"{one.name} at {one.size[0]}x{one.size[1]}"


def columns(selection: Selection) -> list[str]:
    """Headings of `lines` and `line_cells`."""
    return ["rank", "model", "size", selection.score_label, "source", *LABELS.values()]


def lines(selection: Selection) -> list[list[Any]]:
    """A line per candidate within the budget, unrounded."""
    return [
        [
            rank if selection.ranked and one.score is not None else None,
            one.name,
            f"{one.size[0]}x{one.size[1]}",
            one.score,
            one.source,
            *(one.value(kind) for kind in LABELS),
        ]
        for rank, one in enumerate(selection.within, 1)
    ]


def line_cells(selection: Selection) -> list[list[str]]:
    """The same as text, the best score in bold."""
    digits = {3: 2, 5: 2, 6: 3, 7: 3, 8: 0}
    rows = []
    for line in lines(selection):
        texts = [
            "-" if value in (None, "") else f"{value:.{digits[at]}f}" if at in digits else str(value)
            for at, value in enumerate(line)
        ]
        rows.append([*texts[:3], Strong(texts[3]) if line[0] == 1 else texts[3], *texts[4:]])
    return rows


def to_document(selection: Selection) -> dict[str, Any]:
    """For JSON."""
    rows = [dict(zip(columns(selection), line, strict=True)) for line in lines(selection)]
    over = [
        {"model": one.name, "size": list(one.size), **{kind: one.value(kind) for kind in LABELS}}
        for one in selection.over
    ]
    limits = [{"kind": limit.kind, "text": limit.text} for limit in selection.limits]
    found = {"budget": limits, "ranked": selection.ranked, "rows": rows, "over": over, "notes": list(selection.notes)}
    return dict(without_nan(found | {"machine": selection.machine}))


def write_selection(folder: Path, selection: Selection) -> dict[str, Path]:
    """Write budget.md, .csv, .json, and if there are scores scatter.png and .svg."""
    files = {kind: folder / f"budget.{kind}" for kind in ("md", "csv", "json")}
    title = f"Within {' and '.join(limit.text for limit in selection.limits)}"
    notes = "".join(f"- {markdown_line(note)}\n" for note in selection.notes)
    grid = markdown_table(columns(selection), line_cells(selection), texts=3)
    write_text(files["md"], f"# {markdown_line(title)}\n\n{grid}\n{notes}")
    write_text(files["csv"], csv_text([columns(selection), *lines(selection)]))
    write_text(files["json"], json.dumps(to_document(selection), indent=2, allow_nan=False) + "\n")
    panels = [panel for limit in selection.limits if (panel := _panel(selection, limit)).points]
    if selection.ranked and panels:
        for kind in ("png", "svg"):
            files[f"scatter.{kind}"] = folder / f"scatter.{kind}"
            full = f"{title}; dashed: the Pareto front"
            draw_scatters(files[f"scatter.{kind}"], panels, title=full, hollow="over the budget")
    return files


def _panel(selection: Selection, limit: Limit) -> ScatterPanel:
    label: Callable[[Candidate], str] = (
        _name if len({one.size for one in selection.within}) > 1 else lambda one: one.name
    )
    hollow = set(selection.over)
    points = [
        Point(label(one), cost, one.score, one.family, hollow=one in hollow)
        for one in (*selection.within, *selection.over)
        if one.score is not None and (cost := one.value(limit.kind)) is not None
    ]
    return ScatterPanel(
        points,
        LABELS[limit.kind],
        selection.score_label,
        front=True,
        higher_is_better=selection.higher_is_better,
        bound=limit.value,
    )
