"""What every task takes from a recipe in the same way."""

from __future__ import annotations

from typing import Any

from pvtctl.engine import FitSettings, resolve_batch_size
from pvtctl.recipe.schema import Backbone, Recipe


def backbone_options(backbone: Backbone) -> dict[str, Any]:
    """As `pvtctl.models.backbones.build_backbone` takes them, without the name and the width."""
    options = backbone.model_dump(exclude={"name", "width"})
    if options["image_size"] is None:
        del options["image_size"]
    return options


def meta_of(recipe: Recipe) -> dict[str, Any]:
    """What every checkpoint of a run says of it."""
    return {
        "backbone": recipe.model.backbone.spec,
        "data": recipe.data.name,
        "recipe": recipe.name,
        "row": recipe.row,
        "profile": recipe.profile,
    }


def train_batch_size(recipe: Recipe, world_size: int) -> int:
    """Images per rank and forward pass. Raises UsageError when the total batch does not divide evenly."""
    return resolve_batch_size(recipe.train.total_batch, recipe.train.batch_size, recipe.train.accumulate, world_size)


def fit_settings(recipe: Recipe, world_size: int) -> FitSettings:
    """The recipe's `train` block as the engine takes it."""
    values = recipe.train.model_dump(exclude={"activation_checkpointing", "loss"})
    return FitSettings(**values | {"batch_size": train_batch_size(recipe, world_size)})
