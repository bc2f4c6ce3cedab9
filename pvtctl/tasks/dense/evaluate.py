"""Recipe to evaluate weights of a segmentation or depth model: their own model, at their test size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pvtctl.models.registry import DEPTH
from pvtctl.recipe.schema import BackboneSettings, Recipe
from pvtctl.tasks.base import EvaluationRequest, scored_recipe

if TYPE_CHECKING:
    from pvtctl.weights.describe import Inspected


def stated_sizes(checkpoint: Inspected, task: str, keys: Sequence[str], request: EvaluationRequest) -> dict[str, Any]:
    """Those of `keys` in the checkpoint's metadata of the task's settings that `--set` does not override."""
    trained: Mapping[str, Any] = getattr(checkpoint.meta, task) or {}
    return {key: trained[key] for key in keys if key in trained and f"data.{task}.{key}" not in request.asked}


def dense_scored(recipe: Recipe, checkpoint: Inspected, request: EvaluationRequest, data: Mapping[str, Any]) -> Recipe:
    """The recipe with the checkpoint's own model, and these changes of its `data` block."""
    dense, own = checkpoint.dense, recipe.model.backbone
    assert dense is not None
    stride = dense.output_stride or (own.output_stride if own.spec == checkpoint.backbone else 32)
    known = dense.spec.option_names(dense.task)
    options = {key: value for key, value in dense.options.items() if key in known}
    if "scale_shift" in known and dense.task == DEPTH:
        options["scale_shift"] = request.scale_shift or dense.scale_shift
    head = dense.spec.options(options)
    alignment = recipe.eval.alignment
    if head.metric_scale is None and not (request.alignment or "eval.alignment" in request.asked):
        alignment = "auto"  # recipes of metric depth have none
    return scored_recipe(
        recipe,
        data=data,
        model={
            "weights": checkpoint.source,
            "backbone": BackboneSettings.model_validate(
                {"name": checkpoint.backbone, "output_stride": stride, "image_size": checkpoint.position_size}
            ),
            "head": head,
        },
        evaluation={"batch_size": request.batch_size or recipe.eval.batch_size, "alignment": alignment},
    )
