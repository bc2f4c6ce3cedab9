"""Checks of the merged recipe: settings that its task, data or head does not use, and settings that contradict.

An unused setting is a fault if it is set in the layer that last sets `task`, `data.name` or `model.head.name`, or in a
later one. Settings that a base or a profile made for another task, data set or head are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pvtctl.errors import UsageError, nearest
from pvtctl.models.backbone_names import TIMM_PREFIX
from pvtctl.models.parts import STAGES, STEM, require_freezable
from pvtctl.models.registry import backbone_spec, find_backbone, head_spec, head_specs, heads_of
from pvtctl.recipe.layers import COCO_FILES, Fault, Layer, Origin
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.yaml_loader import KeyPath
from pvtctl.tasks.registry import TASK_SPECS, spec_of, tasks_reading


@dataclass(frozen=True)
class _Unread:
    """`path` and everything below it are unused because of the value of the key `decider`."""

    path: KeyPath
    why: str
    decider: KeyPath
    hint: str = ""


def find_faults(layers: list[Layer], recipe: Recipe, origins: Mapping[KeyPath, Origin]) -> list[Fault]:
    """Return faults of a recipe whose single keys are valid; `layers` are those it was merged from, lowest first."""
    return [*_contradictions(recipe, origins), *_unread(layers, recipe)]


def _contradictions(recipe: Recipe, origins: Mapping[KeyPath, Origin]) -> Iterator[Fault]:
    def fault(key: str, problem: str, hint: str = "") -> Fault:
        path = tuple(key.split("."))
        said = (origin for at, origin in origins.items() if at[: len(path)] == path)
        near = next(said, origins.get(("task",)))
        mark = near.mark if near else None
        return Fault(f"{key}: {problem}{f' ({mark})' if mark else ''}{', ' + hint if hint else ''}", mark)

    heads, head = heads_of(recipe.task), recipe.model.head
    if heads and head is None:
        yield fault("model.head", f"missing: {recipe.task} needs model.head.name, {' or '.join(heads)}")
    if not heads and head is not None:
        yield fault("model.head", "a classifier has none; task: detection makes it a detector")
    if heads and head is not None and head.name not in heads:
        yield fault("model.head.name", f"{head.name} is not a head for {recipe.task}", f"it takes {' or '.join(heads)}")
    names = spec_of(recipe).data_names
    if recipe.data.name not in names:
        problem = f"{recipe.task} reads {' or '.join(names)}, not {recipe.data.name}"
        yield fault("data.name", problem, nearest(recipe.data.name, names))
    if recipe.data.url is not None and recipe.data.name != "imagenet":
        yield fault("data.path", f"only tar shards of imagenet are read from URLs, not {recipe.data.name}")
    if recipe.data.name == "mix" and not recipe.data.depth.mix and recipe.task == "depth":
        yield fault("data.depth.mix", "missing: mix needs depth sets by name", "recipe dpt_depth_mix shows how")
    if recipe.task == "depth" and recipe.train.loss.name == "silog":
        if head is not None and head.metric_scale is None:
            problem = "silog compares metres: it needs model.head.scale_shift"
            yield fault("train.loss.name", problem, "[3.05e-4, 0.1378] for rooms")
        unscaled = [name for name, one in recipe.data.depth.mix.items() if one.inverse]
        if recipe.data.name == "mix" and unscaled:
            problem = f"silog compares metres: data.depth.mix.{unscaled[0]} is inverse depth of an unknown scale"
            yield fault("train.loss.name", problem, "ssi_trimmed learns from it")
    own, sizes = find_backbone(recipe.model.backbone.at_width(1)), spec_of(recipe).sizes(recipe)
    side = min(*sizes.training, *sizes.testing)
    if own is not None and side < own.min_side:
        problem = f"{own.name} needs images of at least {own.min_side} pixels on each side (sr_ratios x strides)"
        yield fault("model.backbone.options", problem, f"and here are {side}")
    window, stride = recipe.eval.window, recipe.eval.stride
    if stride is not None and window is None:
        yield fault("eval.stride", "needs eval.window, the window that slides")
    elif window is not None and stride is not None and (stride[0] > window[0] or stride[1] > window[1]):
        yield fault(
            "eval.stride",
            f"{stride[0]}x{stride[1]} is larger than the window of {window[0]}x{window[1]}: pixels in between would be skipped",
        )
    if (refused := _not_freezable(recipe)) is not None:
        yield fault("train.freeze", refused.message, refused.hint or "")
    if recipe.model.init == "scratch" and recipe.model.weights is not None:
        yield fault("model.init", "scratch, but model.weights names a checkpoint to start from")


def _not_freezable(recipe: Recipe) -> UsageError | None:
    """What `train.freeze` names that the backbone does not have; the stages of timm's models are known once built."""
    name = recipe.model.backbone.name
    try:
        parts = backbone_spec(recipe.model.backbone.spec).parts
    except UsageError:  # reported where it is built; it may be of a module that is not loaded here
        return None
    try:
        require_freezable(recipe.train.freeze, (STEM, *STAGES) if name.startswith(TIMM_PREFIX) else parts, name)
    except UsageError as error:
        return error
    return None


def _unread(layers: list[Layer], recipe: Recipe) -> Iterator[Fault]:
    for rule in _rules(recipe):
        said = [any(rule.decider[: len(path)] == path for path in layer.values) for layer in layers]
        decided = max((at for at, says in enumerate(said) if says), default=-1)
        for at, layer in enumerate(layers):
            if at < decided or ("profile",) in layer.values:  # a flat recipe, written by a run, contains every key
                continue
            for path, value in layer.values.items():
                if path[: len(rule.path)] == rule.path and value is not None and value != {}:
                    mark = layer.mark(path)
                    hint = f", {rule.hint}" if rule.hint else ""
                    yield Fault(f"{'.'.join(path)}: {rule.why} ({mark}){hint}", mark)


def is_unread(key: str, recipe: Recipe) -> bool:
    """Whether the recipe's task, data or head does not use the dotted `key`."""
    path = tuple(key.split("."))
    return any(path[: len(rule.path)] == rule.path for rule in _rules(recipe))


def _rules(recipe: Recipe) -> Iterator[_Unread]:
    task, data, head = ("task",), ("data", "name"), ("model", "head", "name")
    for key in dict.fromkeys(key for spec in TASK_SPECS.values() for key in spec.reads):
        if recipe.task not in (tasks := tasks_reading(key)):
            instead = key.startswith("data.") and recipe.task != "classification"
            reads = f"reads data.{recipe.task}" if instead else "does not read it"
            why = f"is for {' and '.join(tasks)}, {recipe.task} {reads}"
            yield _Unread(tuple(key.split(".")), why, task)
    if recipe.task != "classification" and recipe.data.name != "scenes":
        why = f"is the size that scenes is rendered at; {recipe.data.name} is sized by data.{recipe.task}"
        yield _Unread(("data", "image_size"), why, data)
    if recipe.data.name != "coco":
        for name in COCO_FILES:
            yield _Unread(("data", name), f"is for coco, {recipe.data.name} does not read it", data)
    if recipe.data.name != "scenes":
        yield _Unread(("data", "scenes"), f"is for data.name: scenes, {recipe.data.name} does not use it", data)
    if recipe.data.name != "mix":
        yield _Unread(("data", "depth", "mix"), f"is for data.name: mix, {recipe.data.name} is one set", data)
    if recipe.train.iterations is not None:
        yield _Unread(("train", "epochs"), "train.iterations sets the length", ("train", "iterations"))
    if recipe.model.head is None:
        return
    own = head_spec(recipe.model.head.name)
    if not own.has_nms:
        yield _Unread(("eval", "nms_iou"), f"{own.title} has no NMS", head)
    has = f"{own.name} has {', '.join(names)}" if (names := own.option_names(recipe.task)) else ""
    for name in dict.fromkeys(key for spec in head_specs() for key in spec.option_names()):
        if name not in own.option_names():
            heads = [spec.name for spec in head_specs() if name in spec.option_names()]
            yield _Unread(("model", "head", name), f"is for {' and '.join(heads)}, {own.name} has none", head, has)
        elif (reader := own.only_for.get(name, recipe.task)) != recipe.task:
            why = f"is for {reader}, {own.name} has none for {recipe.task}"
            yield _Unread(("model", "head", name), why, head, has)
    if recipe.task == "segmentation":
        yield _Unread(("model", "head", "scale_shift"), "is for depth, segmentation does not read it", task)
