"""How image files become RGB: for the data of a recipe, and for a prediction with a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pvtctl.data.images import Reading
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.normalization import IMAGENET
from pvtctl.recipe.schema import Data, Recipe
from pvtctl.tasks.base import TaskSpec
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.files.pixels import Pixels, for_backbone
from pvtctl.weights.read import read_checkpoint
from pvtctl.weights.resolve import find_weights_file, split_inside


def reading_of(recipe: Recipe) -> Reading:
    """How the image files of a recipe's data are read."""
    return reading_of_data(recipe.data, spec_of(recipe))


def reading_of_data(data: Data, spec: TaskSpec) -> Reading:
    """By `data.exif`, else as the task does, and `data.grey_range`."""
    return Reading(spec.turns_images if data.exif is None else data.exif == "apply", data.grey_range)


def reading_of_meta(meta: CheckpointMeta) -> Reading:
    """As shown, unless the model was trained with `data.exif=ignore`; 16-bit grey in the range of training."""
    return Reading(meta.exif != "ignore", None if meta.grey_range is None else (meta.grey_range[0], meta.grey_range[1]))


def read_as_trained(recipe: Recipe, meta: CheckpointMeta, pixels: Pixels | None = None) -> Recipe:
    """The recipe with `data.exif` and `data.grey_range` of a checkpoint where it leaves them open, and with its `pixels`, if
    they are known.
    """
    stated = {"exif": meta.exif, "grey_range": reading_of_meta(meta).grey}
    changes: dict[str, Any] = {
        key: value for key, value in stated.items() if value is not None and getattr(recipe.data, key) is None
    }
    if pixels is not None and pixels.source is not None:
        changes["normalization"] = str(pixels.normalization)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)}) if changes else recipe


def as_weights_expect(recipe: Recipe, say: Callable[[str], None]) -> Recipe:
    """The recipe with `data.normalization` of its starting weights where it leaves it open; says what is not ImageNet's,
    not known, or not theirs. Raises UsageError for weights that cannot be read.
    """
    if recipe.model.start is None:
        return recipe
    start = recipe.model.start
    found = read_checkpoint(find_weights_file(start), split_inside(start)[1])
    pixels, stated = for_backbone(found.pixels, recipe.model.backbone.spec), recipe.data.normalization
    if stated is not None:
        if pixels.source is not None and pixels.normalization != recipe.data.pixels:
            say(f"note: data.normalization is {stated}, and the weights were trained with pixels of {pixels}")
        return recipe
    if pixels.normalization != IMAGENET or (pixels.source is None and found.format != "pvtctl"):
        say(f"pixels: {pixels} (data.normalization)")
    data = recipe.data.model_copy(update={"normalization": str(pixels.normalization)})
    return recipe.model_copy(update={"data": data})
