"""Builds the parts that segmentation and depth models share from a recipe."""

from __future__ import annotations

from typing import Any

from pvtctl.cost.counting import count_model
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import head_spec
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import TaskSpec
from pvtctl.tasks.dense.inference import DenseTesting, Window
from pvtctl.tasks.from_recipe import backbone_options, meta_of
from pvtctl.weights.describe import HeadClasses


def dense_options(recipe: Recipe) -> dict[str, Any]:
    """Options of a recipe's model for the builders of `pvtctl.models.dense`."""
    assert recipe.model.head is not None
    return {
        "head_options": recipe.model.head.said(),
        "backbone_options": backbone_options(recipe.model.backbone),
    }


def testing_of(recipe: Recipe) -> DenseTesting:
    """Views and windows of a recipe's `eval` block."""
    window = None
    if (size := recipe.eval.window) is not None:
        window = Window(size, recipe.eval.stride or (max(1, size[0] * 2 // 3), max(1, size[1] * 2 // 3)))
    return DenseTesting(recipe.eval.ratios, recipe.eval.flip, window)


def dense_meta(recipe: Recipe) -> CheckpointMeta:
    """Metadata in a run's checkpoint."""
    assert recipe.model.head is not None
    return meta_of(recipe).updated(
        head=recipe.model.head.name,
        head_options=recipe.model.head.said(),
        output_stride=recipe.model.backbone.output_stride,
        position_size=recipe.model.backbone.image_size,
    )


def dense_case_options(recipe: Recipe) -> dict[str, Any]:
    """Options for `pvtctl.cost.build.build_own`."""
    head = recipe.model.head
    assert head is not None
    return {
        "backbone": backbone_options(recipe.model.backbone),
        "head": head.said(),
        "scale_shift": head.metric_scale,
    }


def dense_cost(spec: TaskSpec, recipe: Recipe, classes: int) -> dict[str, float]:
    """Parameters and multiply-adds of the recipe's own model; for a row of a paper at full width."""
    assert recipe.model.head is not None
    head = recipe.model.head.name
    if recipe.expect and recipe.model.backbone.width != 1:
        full = {
            "backbone": recipe.model.backbone.model_copy(update={"width": 1.0}),
            "head": head_spec(head).options({key: value for key, value in recipe.model.head if key != "width"}),
        }
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=full)})
    with without_values():
        # in training, batch norm does not accept a single image
        model = spec.new_model(recipe, HeadClasses(classes, None)).eval()
    cost = count_model(
        model,
        spec.sizes(recipe).counted,
        backbone=recipe.model.backbone.name,
        head=head,
        num_classes=classes or None,
        convention="paper",
    )
    return {"params_m": cost.trainable_params / 1e6, "gmacs": cost.macs / 1e9}
