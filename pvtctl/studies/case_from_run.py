"""The model of a run's own recipe, as it is counted and timed."""

from __future__ import annotations

import json
from typing import Any

from pvtctl.errors import UsageError
from pvtctl.latency.measure import Case
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import cost_size
from pvtctl.runs.read_run import FinishedRun
from pvtctl.tasks.detection.transforms import resized_size
from pvtctl.tasks.from_recipe import backbone_options
from pvtctl.weights import read_checkpoint

PHOTO = (480, 640)
"""COCO's most frequent (height, width)."""
_PAD = 32


def case_of(run: FinishedRun) -> Case:
    """One image through the model that `run` trained, with all its options, at the size it is tested at.

    Raises UsageError where the run does not say how many classes its model has.
    """
    recipe = run.recipe
    classes = run.info.get("num_classes", recipe.model.num_classes)
    if not isinstance(classes, int):
        raise UsageError(f"{run.path} does not say its number of classes", "its run.json lacks num_classes")
    head = recipe.model.head
    return Case(
        recipe.model.backbone.spec,
        input_size(recipe),
        head=head.name if head is not None else "classifier",
        num_classes=classes or None,
        options=json.dumps(_options(run)),
    )


def input_size(recipe: Recipe) -> tuple[int, int]:
    """(height, width) of what the network sees in testing. Photos differ, so that a usual one stands for them: detection
    takes 800x1280 and 640x960 as the papers count, or the size that a photo of 480x640 gets; segmentation a square."""
    data = recipe.data
    match recipe.task:
        case "detection":
            side, longest = data.detection.test_short_side, data.detection.test_long_side
            if data.name == "scenes":
                side = _padded(min(side, longest))
                return side, side
            if (side, longest) in ((800, 1333), (640, 1333)):
                return cost_size(recipe) if side == 800 else (640, 960)
            height, width = resized_size(PHOTO, side, longest)
            return _padded(height), _padded(width)
        case "segmentation":
            side = data.segmentation.test_short_side
            return recipe.eval.window or (side, side)
        case "depth":
            return data.depth.test_size
        case _:
            return data.image_size, data.image_size


def _padded(side: int) -> int:
    return -(-side // _PAD) * _PAD


def _options(run: FinishedRun) -> dict[str, Any]:
    """As `pvtctl.cost.build.build_own` takes them."""
    recipe = run.recipe
    body, head = backbone_options(recipe.model.backbone), recipe.model.head
    if head is None:
        return {"backbone": body | {"image_size": recipe.data.image_size}}
    if recipe.task != "detection":
        return {"backbone": body, "head": head.said(), "scale_shift": head.metric_scale}
    return {"backbone": body, "head": head.said() | {"conventions": _conventions(run)}}


def _conventions(run: FinishedRun) -> str:
    """A detector's, which its first weights decide: its own weights say them."""
    best = run.path / "best.safetensors"
    return str(read_checkpoint(best).meta.get("conventions") or "papers") if best.is_file() else "papers"
