"""How image files become RGB: for the data of a recipe, and for a prediction with a checkpoint."""

from __future__ import annotations

from pvtctl.data.images import Reading
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.recipe.schema import Data, Recipe
from pvtctl.tasks.base import TaskSpec
from pvtctl.tasks.registry import spec_of


def reading_of(recipe: Recipe) -> Reading:
    """How the image files of a recipe's data are read."""
    return reading_of_data(recipe.data, spec_of(recipe))


def reading_of_data(data: Data, spec: TaskSpec) -> Reading:
    """By `data.exif`, else as the task does, and `data.grey_range`."""
    return Reading(spec.turns_images if data.exif is None else data.exif == "apply", data.grey_range)


def reading_of_meta(meta: CheckpointMeta) -> Reading:
    """As shown, unless the model was trained with `data.exif=ignore`; 16-bit grey in the range of training."""
    return Reading(meta.exif != "ignore", None if meta.grey_range is None else (meta.grey_range[0], meta.grey_range[1]))


def read_as_trained(recipe: Recipe, meta: CheckpointMeta) -> Recipe:
    """The recipe with `data.exif` and `data.grey_range` of a checkpoint where it leaves them open."""
    stated = {"exif": meta.exif, "grey_range": reading_of_meta(meta).grey}
    changes = {key: value for key, value in stated.items() if value is not None and getattr(recipe.data, key) is None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)}) if changes else recipe
