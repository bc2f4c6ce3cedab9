"""The model of a run's recipe, for counting and timing."""

from __future__ import annotations

import json

from pvtctl.errors import UsageError
from pvtctl.latency.measure import Case
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
    head = recipe.model.head
    return Case(
        recipe.model.backbone.spec,
        spec.sizes(recipe).testing,
        head=head.name if head is not None else "classifier",
        num_classes=classes or None,
        options=json.dumps(spec.case_options(recipe, _conventions(run))),
    )


def _conventions(run: FinishedRun) -> str:
    """The conventions of a detector, read from its weights, as they depend on the initial ones."""
    best = run.path / "best.safetensors"
    return read_checkpoint(best).meta.conventions or "papers" if best.is_file() else "papers"
