"""What only the merged recipe shows: settings that its task, data or head never reads, and settings that contradict.

A setting that is not read is a fault where somebody said it knowing what reads it: in the place that decides (the layer
that says `task`, `data.name` or `model.head.name` last), or in a later one. What a base or a profile said for another
task, data set or head is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pvtctl.errors import nearest
from pvtctl.recipe.layers import Fault, Layer, Origin
from pvtctl.recipe.schema import Eval, Recipe
from pvtctl.recipe.yaml_loader import KeyPath

DATA_OF = {"classification": ("imagenet", "scenes"), "detection": ("coco", "scenes")}
"""The data sets that each task reads."""
COCO_FILES = ("train_images", "train_annotations", "val_images", "val_annotations")


@dataclass(frozen=True)
class _Unread:
    """`path`, or what lies under it, is not read; `decider` is the key that decides so."""

    path: KeyPath
    why: str
    decider: KeyPath


def find_faults(layers: list[Layer], recipe: Recipe, origins: Mapping[KeyPath, Origin]) -> list[Fault]:
    """Faults of a recipe that is valid key by key; `layers` are those it was merged from, lowest first."""
    return [*_contradictions(recipe, origins), *_unread(layers, recipe)]


def _contradictions(recipe: Recipe, origins: Mapping[KeyPath, Origin]) -> Iterator[Fault]:
    def fault(key: str, problem: str, hint: str = "") -> Fault:
        path = tuple(key.split("."))
        said = (origin for at, origin in origins.items() if at[: len(path)] == path)
        near = next(said, origins.get(("task",)))
        mark = near.mark if near else None
        return Fault(f"{key}: {problem}{f' ({mark})' if mark else ''}{', ' + hint if hint else ''}", mark)

    if recipe.task == "detection" and recipe.model.head is None:
        yield fault("model.head", "missing: detection needs model.head.name, retinanet, mask_rcnn or detr")
    if recipe.task == "classification" and recipe.model.head is not None:
        yield fault("model.head", "a classifier has none; task: detection makes it a detector")
    names = DATA_OF[recipe.task]
    if recipe.data.name not in names:
        problem = f"{recipe.task} reads {' or '.join(names)}, not {recipe.data.name}"
        yield fault("data.name", problem, nearest(recipe.data.name, names))
    if recipe.model.init == "scratch" and recipe.model.weights is not None:
        yield fault("model.init", "scratch, but model.weights names a checkpoint to start from")


def _unread(layers: list[Layer], recipe: Recipe) -> Iterator[Fault]:
    for rule in _rules(recipe):
        decided = max((at for at, layer in enumerate(layers) if _says(layer, rule.decider)), default=-1)
        for at, layer in enumerate(layers):
            if at < decided or ("profile",) in layer.values:  # a flat recipe, written by a run: every key is in it
                continue
            for path, value in layer.values.items():
                if path[: len(rule.path)] == rule.path and value is not None and value != {}:
                    mark = layer.mark(path)
                    yield Fault(f"{'.'.join(path)}: {rule.why} ({mark})", mark)


def _says(layer: Layer, key: KeyPath) -> bool:
    return any(key[: len(path)] == path for path in layer.values)


def _rules(recipe: Recipe) -> Iterator[_Unread]:
    task, data, head = ("task",), ("data", "name"), ("model", "head", "name")
    if recipe.task == "classification":
        keys = [
            ("data", "detection"),
            ("model", "init"),
            *(("eval", name) for name in Eval.model_fields if name != "batch_size"),
        ]
        for key in keys:
            yield _Unread(key, "is for detection, classification does not read it", task)
    else:
        yield _Unread(("data", "augment"), "is for classification, detection reads data.detection", task)
        yield _Unread(("data", "resize"), "is for classification, detection reads data.detection.test_short_side", task)
        if recipe.data.name == "coco":
            why = "is the size that scenes is rendered at; coco is sized by data.detection"
            yield _Unread(("data", "image_size"), why, data)
    if recipe.data.name != "coco":
        for name in COCO_FILES:
            yield _Unread(("data", name), f"is for coco, {recipe.data.name} does not read it", data)
    if recipe.model.head is not None and recipe.model.head.name == "detr":
        yield _Unread(("eval", "nms_iou"), "DETR has no NMS", head)
    elif recipe.model.head is not None:
        yield _Unread(("model", "head", "num_queries"), f"is for detr, {recipe.model.head.name} has no queries", head)
    if recipe.model.head is not None and recipe.model.head.name != "mask_rcnn":
        why = f"is for mask_rcnn, {recipe.model.head.name} has no second stage"
        yield _Unread(("model", "head", "rois_per_image"), why, head)
