"""Models of runs, for counting and timing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pvtctl.errors import PvtctlError, UsageError
from pvtctl.latency.measure import Case, Latency, measure_latency
from pvtctl.runs.read_run import FinishedRun
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.read import read_checkpoint


def case_of(run: FinishedRun) -> Case:
    """The model trained by `run`, with all its options, on one image of the test size.

    Raises UsageError if the run has no number of classes.
    """
    recipe, spec = run.recipe, spec_of(run.recipe)
    classes = run.info.get("num_classes", recipe.model.num_classes)
    if not isinstance(classes, int):
        raise UsageError(f"{run.path} does not say its number of classes", "its run.json lacks num_classes")
    head, best = recipe.model.head, run.path / "best.safetensors"
    # the conventions of a detector, read from its weights, as they depend on the initial ones
    conventions = (read_checkpoint(best).meta.conventions if best.is_file() else None) or "papers"
    return Case(
        recipe.model.backbone.spec,
        spec.sizes(recipe).testing,
        head=head.name if head is not None else "classifier",
        num_classes=classes or None,
        options=json.dumps(spec.case_options(recipe, str(conventions))),
    )


def time_cases(
    groups: Iterable[Sequence[Case]], *, strict: bool, **options: Any
) -> tuple[dict[Case, Latency], dict[Case, str], dict[str, Any]]:
    """Latencies of the cases, interleaved within a group; reasons of failures, and the machine.

    If a group fails, its cases are timed one by one, so that a failure does not affect the others. `options` are those
    of `measure_latency`. Raises the UsageError of a group if `strict`.
    """
    found: dict[Case, Latency] = {}
    failed: dict[Case, str] = {}
    machine: dict[str, Any] = {}

    def measure(cases: Sequence[Case]) -> None:
        results, where = measure_latency(cases, **options)
        found.update(zip(cases, results, strict=True))
        machine.update(where)

    for group in groups:
        try:
            measure(group)
        except PvtctlError as error:
            if strict and isinstance(error, UsageError):
                raise
            for case in group:
                try:
                    measure([case])
                except PvtctlError as own:
                    failed[case] = f"not timed: {own.message}"
    return found, failed, machine
