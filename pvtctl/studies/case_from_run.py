"""The model of a run's own recipe, as it is counted and timed."""

from __future__ import annotations

import json

from pvtctl.errors import UsageError
from pvtctl.latency.measure import Case
from pvtctl.runs.read_run import FinishedRun
from pvtctl.tasks.registry import spec_of
from pvtctl.weights import read_checkpoint


def case_of(run: FinishedRun) -> Case:
    """One image through the model that `run` trained, with all its options, at the size it is tested at.

    Raises UsageError where the run does not say how many classes its model has.
    """
    recipe, spec = run.recipe, spec_of(run.recipe)
    classes = run.info.get("num_classes", recipe.model.num_classes)
    if not isinstance(classes, int):
        raise UsageError(f"{run.path} does not say its number of classes", "its run.json lacks num_classes")
    head = recipe.model.head
    return Case(
        recipe.model.backbone.spec,
        spec.sizes(recipe).testing,
        head=head.name if head is not None else "classifier",
        num_classes=classes or None,
        options=json.dumps(spec.case_options(recipe, _conventions(run))),
    )


def _conventions(run: FinishedRun) -> str:
    """A detector's, which its first weights decide: its own weights say them."""
    best = run.path / "best.safetensors"
    return str(read_checkpoint(best).meta.get("conventions") or "papers") if best.is_file() else "papers"
