"""Costs of the models of a study: at the paper's full size, which needs no training, and as trained here.

Parameters, multiply-adds and training memory are computed from shapes; time and inference memory are measured on this
machine, unless a call would take too long or too much memory.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from pvtctl.cost.build import NUM_CLASSES, build_model
from pvtctl.cost.counting import count, count_model
from pvtctl.cost.memory import GIB, estimate_memory, memory_at_hand
from pvtctl.errors import PvtctlError
from pvtctl.io.files import write_text
from pvtctl.io.foreign import BadFile, foreign, read_json
from pvtctl.io.machine import available_memory
from pvtctl.latency.machine import describe_machine
from pvtctl.latency.measure import Case
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import head_spec
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import model_cost
from pvtctl.studies.cases import time_cases
from pvtctl.studies.claims import TIMES
from pvtctl.studies.results import RowResult
from pvtctl.tasks.from_recipe import backbone_options
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses

Say = Callable[[str], None]
REPEATS, WARMUP = 5, 1
LONGEST_SECONDS = 240.0
"""Time limit in seconds for all calls of one row; rows that would take longer are left out."""
_REACHED = 0.4
"""Assumed speed of whole models as a fraction of a plain matrix product's."""
_SPARE = 0.6
"""Fraction of the free memory that a measurement may use."""
_PROCESS_BYTES = GIB // 2
"""Memory of a process that has imported torch."""


@dataclass(frozen=True)
class CaseTiming:
    """Times of calls on one image, in milliseconds, and their memory."""

    calls: int
    p50_ms: float
    p90_ms: float
    fastest_ms: float
    memory_gib: float
    others: float | None = None
    """Fraction of this machine's CPU time used by other processes meanwhile."""


@dataclass(frozen=True)
class ModelCost:
    """Costs of one row. The first figures are those of the paper's model at the paper's size."""

    size: tuple[int, int]
    """(height, width) for operations, time and inference memory."""
    params_m: float | None
    gmacs: float | None
    train_memory_gib: float | None
    """Lower bound: activations of one training step of `train_images` in float32."""
    train_images: int
    """Images per GPU; 1 if the recipe does not set it."""
    train_size: tuple[int, int]
    timing: CaseTiming | None = None
    untimed: str = ""
    """Why there is no timing."""
    trained: str = ""
    """The backbone that was trained: `pvt_small@0.25`."""
    trained_params_m: float | None = None
    trained_gmacs: float | None = None
    trained_size: tuple[int, int] | None = None

    def value(self, figure: str) -> float | None:
        """A figure of the paper's model, by its name in tables and claims."""
        known = {"params_m": self.params_m, "gmacs": self.gmacs, "train_memory_gib": self.train_memory_gib}
        if (timing := self.timing) is not None:
            known |= dict.fromkeys(TIMES, timing.p50_ms) | {"inference_memory_gib": timing.memory_gib}
        return known.get(figure)


def study_costs(
    rows: Sequence[RowResult], out: Path, *, latency: bool = True, device: str = "cpu", say: Say = lambda text: None
) -> dict[str, ModelCost]:
    """Costs of all rows that have a recipe; times are kept in `out`/costs.json and measured once per machine."""
    costs = {row.row: _counted(row, row.recipe) for row in rows if row.recipe is not None}
    if not latency:
        return {name: replace(cost, untimed="not measured") for name, cost in costs.items()}
    cases = {row.row: _case(row.recipe) for row in rows if row.recipe is not None}
    kept = _Kept(out / "costs.json", device)
    found: dict[Case, CaseTiming | str] = {
        case: kept.known[repr(case)] for case in cases.values() if repr(case) in kept.known
    }
    wanted: dict[Case, float | None] = {}
    for row, case in cases.items():
        if case not in found:
            wanted.setdefault(case, costs[row].gmacs)
    if wanted:
        speed = _macs_per_second(device)
        found |= {case: reason for case, gmacs in wanted.items() if (reason := _too_much(case, gmacs, speed, device))}
        groups = _groups([case for case in wanted if case not in found], _SPARE * _free_bytes(device))
        options = {"device": device, "warmup": WARMUP, "repeats": REPEATS, "on_progress": say}
        results, failed, _ = time_cases(groups, strict=False, **options)
        timed = {
            case: CaseTiming(it.calls, it.p50_ms, it.p90_ms, it.min_ms, it.peak_memory_bytes / GIB, it.others_cpu_share)
            for case, it in results.items()
        }
        found |= {**failed, **timed}
        kept.add({repr(case): timing for case, timing in timed.items()})
    for row, case in cases.items():
        if isinstance(timing := found[case], str):
            costs[row] = replace(costs[row], untimed=timing)
        else:
            costs[row] = replace(costs[row], timing=timing)
    return costs


def _counted(row: RowResult, recipe: Recipe) -> ModelCost:
    """The costs that are computed from shapes."""
    classes = max((int(a.read.info.get("num_classes") or 0) for a in row.attempts if a.read), default=0)
    numbers = model_cost(recipe, classes or 80)
    printed = row.expect.get("params_m")
    if printed is not None and "of the classifier" in (printed.note or ""):
        numbers["params_m"] = count(recipe.model.backbone.at_width(1), (224, 224)).params / 1e6
    images, size = recipe.train.batch_size or 1, spec_of(recipe).sizes(recipe).training
    cost = ModelCost(
        size=spec_of(recipe).sizes(recipe).counted,
        params_m=numbers.get("params_m"),
        gmacs=numbers.get("gmacs"),
        train_memory_gib=_memory(_plain(_case(recipe)), size, images, training=True),
        train_images=images,
        train_size=size,
    )
    read = next((attempt.read for attempt in row.attempts if attempt.read), None)
    return cost if read is None else _with_trained(cost, read.recipe, int(read.info.get("num_classes") or 0))


def _with_trained(cost: ModelCost, recipe: Recipe, classes: int) -> ModelCost:
    """Add the counts of the model of a run's recipe, at the run's test size."""
    spec, head = spec_of(recipe), recipe.model.head
    size = spec.sizes(recipe).counted_here
    cost = replace(cost, trained=recipe.model.backbone.spec)
    with contextlib.suppress(PvtctlError, RuntimeError), without_values():
        model = spec.new_model(recipe, HeadClasses(classes, None)).eval()
        name = head.name if head is not None else "classifier"
        counted = count_model(
            model, size, backbone=recipe.model.backbone.name, head=name, num_classes=classes, convention="paper"
        )
        return replace(cost, trained_params_m=counted.params / 1e6, trained_gmacs=counted.macs / 1e9, trained_size=size)
    return cost


def _case(recipe: Recipe) -> Case:
    """The timed model of a row: the paper's, as in `pvtctl latency`, but with the row's settings of DPT's decoder."""
    backbone, head = recipe.model.backbone, recipe.model.head
    classes, own = None, {}
    if head is not None:
        spec = head_spec(head.name)
        if spec.task_of(None) != recipe.task:
            classes = NUM_CLASSES[recipe.task]
        if any(getattr(head, option) not in (None, "project") for option in spec.token_options):
            own = {"backbone": backbone_options(backbone), "head": head.said()}
    return Case(
        backbone=backbone.at_width(1),
        size=spec_of(recipe).sizes(recipe).counted,
        head=head.name if head is not None else "classifier",
        num_classes=classes,
        output_stride=backbone.output_stride if backbone.output_stride != 32 else None,
        options=json.dumps(own) if own else "",
    )


def _plain(case: Case) -> Case:
    """The same model for estimates of memory, which do not depend on what DPT's decoder reads: estimated once."""
    return replace(case, options="")


@cache
def _memory(case: Case, size: tuple[int, int], images: int, *, training: bool) -> float | None:
    """GiB of activations, computed as for the warning of `pvtctl finetune`; None for a model that needs real values."""
    try:
        needed = estimate_memory(
            case.backbone,
            case.head,
            size,
            images,
            training=training,
            num_classes=case.num_classes,
            output_stride=case.output_stride,
        )
    except (PvtctlError, NotImplementedError, RuntimeError):
        return None
    return needed / GIB


def _too_much(case: Case, gmacs: float | None, speed: float, device: str) -> str:
    """Why a case is not run; empty if it is."""
    seconds = 1e9 * (gmacs or 0) / (_REACHED * speed)
    if seconds * (REPEATS + WARMUP + 1) > LONGEST_SECONDS:
        span = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        return f"not timed: by its operations a call would take about {span} on this machine"
    needed, free = _needed_bytes(_plain(case)), _SPARE * _free_bytes(device)
    if needed > free:
        return f"not timed: it needs about {needed / GIB:.0f} GiB, {free / GIB:.0f} GiB are available"
    return ""


@cache
def _needed_bytes(case: Case) -> int:
    """Memory of a process that runs the case: activations with a margin, weights, and torch itself."""
    with without_values():
        weights = sum(p.numel() for p in build_model(case.backbone, case.head, case.num_classes).parameters())
    activations = _memory(case, case.size, 1, training=False) or 1.0
    return int(1.5 * activations * GIB) + 4 * weights + _PROCESS_BYTES


def _free_bytes(device: str) -> int:
    """Free memory of a GPU, or of this machine without swapping."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    at_hand = memory_at_hand()
    return min(at_hand, available_memory() or at_hand // 2)


def _macs_per_second(device: str) -> float:
    """Speed of a plain matrix product."""
    side = 1024
    a = torch.ones(side, side, device=device)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((a @ a)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return float(side**3 / best)


def _groups(cases: Sequence[Case], free: float) -> list[list[Case]]:
    groups: list[list[Case]] = []
    left = 0.0
    for case in sorted(cases, key=lambda case: case.size):
        needed = _needed_bytes(_plain(case))
        if not groups or groups[-1][0].size != case.size or needed > left:
            groups.append([])
            left = free
        groups[-1].append(case)
        left -= needed
    return groups


class _Kept:
    """Cache of measured times, valid for this machine, torch version and these settings."""

    def __init__(self, file: Path, device: str) -> None:
        self._file = file
        machine = describe_machine(device)
        machine = {key: value for key, value in machine.items() if isinstance(value, str | int | float | None)}
        self._where = machine | {"threads": torch.get_num_threads(), "repeats": REPEATS, "warmup": WARMUP}
        self.known: dict[str, CaseTiming] = {}
        with contextlib.suppress(BadFile), foreign(file):  # measured again then
            held = read_json(file, dict)
            if held["where"] == self._where:
                self.known = {name: CaseTiming(**timing) for name, timing in held["times"].items()}

    def add(self, times: dict[str, CaseTiming]) -> None:
        self.known |= times
        kept = {name: asdict(timing) for name, timing in self.known.items()}
        write_text(self._file, json.dumps({"where": self._where, "times": kept}, indent=2) + "\n")
