"""Registry of tasks. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvtctl.errors import UsageError, nearest
from pvtctl.tasks.base import TaskSpec
from pvtctl.tasks.classification.spec import CLASSIFICATION
from pvtctl.tasks.depth.spec import DEPTH
from pvtctl.tasks.detection.spec import DETECTION
from pvtctl.tasks.segmentation.spec import SEGMENTATION

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe

TASK_SPECS: dict[str, TaskSpec] = {spec.name: spec for spec in (CLASSIFICATION, DETECTION, SEGMENTATION, DEPTH)}


def task_spec(name: str) -> TaskSpec:
    """The task of that name. Raises UsageError with the closest names."""
    if name not in TASK_SPECS:
        raise UsageError(f"no task {name!r}", nearest(name, list(TASK_SPECS)))
    return TASK_SPECS[name]


def spec_of(recipe: Recipe) -> TaskSpec:
    """The task of a recipe."""
    return TASK_SPECS[recipe.task]


def tasks_of_data(name: str) -> tuple[str, ...]:
    """The tasks that read a data set."""
    return tuple(task for task, spec in TASK_SPECS.items() if name in spec.data_names)


def tasks_reading(key: str) -> tuple[str, ...]:
    """Tasks that read a recipe key."""
    return tuple(task for task, spec in TASK_SPECS.items() if key in spec.reads) or tuple(TASK_SPECS)


def tasks_taking(option: str) -> tuple[str, ...]:
    """The tasks whose predictions take an option (`pvtctl.tasks.base.PredictOptions`)."""
    return tuple(task for task, spec in TASK_SPECS.items() if option in spec.predict_options) or tuple(TASK_SPECS)


def is_error(figure: str) -> bool:
    """Whether a lower figure is better, as for errors and losses."""
    return any(spec.figure(figure).lower_is_better for spec in TASK_SPECS.values())
