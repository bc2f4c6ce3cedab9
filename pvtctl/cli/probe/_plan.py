"""From the options of `pvtctl probe` to its plan: one recipe per backbone, with the same head and training. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvtctl.cli._models import check_backbones
from pvtctl.cli._resolve_recipe import DataChoice, Override, choose_data, choose_recipe, choose_task, note
from pvtctl.cli._weights import choose_weights
from pvtctl.errors import UsageError, nearest
from pvtctl.models.registry import find_head, head_names, head_spec, heads_of
from pvtctl.runs.paths import data_place, given_weights, named_folder

if TYPE_CHECKING:
    from pvtctl.cli.probe import ProbeOptions
    from pvtctl.probe.plan import ProbePlan
    from pvtctl.recipe.schema import Recipe

LINEAR = "linear"
NONE = "none"
SCENES = "scenes"
_FOR_ALL = (NONE, SCENES, "timm")
"""What `--weights` may say of all backbones that it does not name."""
_RECIPES = {"classification": "finetune_classification", "segmentation": "small_maps", "depth": "small_depth"}
_EPOCHS = {"classification": 50, "detection": 12, "segmentation": 20, "depth": 30}
_HEAD_WIDTH = 64
"""Channels of necks and heads that can be narrower than the papers': a probe is to take minutes."""


def probe_plan(options: ProbeOptions) -> ProbePlan:
    """The plan of a probe. Raises UsageError for unknown names, and for data, heads and weights that do not fit."""
    from pvtctl.probe.plan import ProbedBackbone, ProbePlan, check_plan
    from pvtctl.weights.resolve import find_weights_file

    names = check_backbones(options.backbone)
    weights = _weights(options.weights, names)
    data = choose_data(options.data, options.folder)
    task, head = _task_and_head(data, options)
    recipes = [_with_weights(_recipe(name, data, task, head, options), weights.get(name)) for name in names]
    data_place(recipes[0])
    for recipe in recipes:
        if recipe.model.start is not None:
            find_weights_file(recipe.model.start)  # all of them before the first is probed
    out = options.out or named_folder("probe", head or LINEAR, data.label or data.name)
    more: dict[str, Any] = {} if options.cache is None else {"cache": options.cache.expanduser()}
    more |= {} if options.cache_size is None else {"cache_bytes": options.cache_size}
    rows = [ProbedBackbone(recipe, options.views) for recipe in recipes]
    plan = ProbePlan(rows, out.expanduser(), options.seeds, **more)
    check_plan(plan)
    return plan


def _weights(texts: list[str], names: list[str]) -> dict[str, str]:
    """Backbone -> its weights, as named by `--weights`."""
    found: dict[str, str] = {}
    for text in texts:
        if text in _FOR_ALL:
            found |= {each: found.get(each, text) for each in names}
            continue
        probed = next((each for each in names if text.startswith(f"{each}=")), "")  # options in a name have a = too
        name, _, source = (probed, "=", text[len(probed) + 1 :]) if probed else text.partition("=")
        if not (name and source):
            raise UsageError(
                f"--weights {text}: write it as BACKBONE=FILE",
                f"--weights {names[0]}=FILE, or for all {', '.join(_FOR_ALL[:-1])} or {_FOR_ALL[-1]}",
            )
        if name not in names:
            raise UsageError(f"--weights {text}: {name} is not probed", nearest(name, names))
        found[name] = source
    return found


def _task_and_head(data: DataChoice, options: ProbeOptions) -> tuple[str, str | None]:
    """The task, and its head; None for `linear`."""
    head = options.head
    if head is not None and head != LINEAR and find_head(head) is None:
        raise UsageError(f"no head {head!r} to probe", nearest(head, [LINEAR, *head_names()[2:]]))
    if head == LINEAR:
        if options.task not in (None, "classification"):
            raise UsageError(
                f"{LINEAR} is a classifier, not a head for {options.task}", f"--head {heads_of(options.task)[0]}"
            )
        return choose_task(data, None, "classification"), None
    task = choose_task(data, head, options.task)
    if not heads_of(task):
        note(f"head: {LINEAR}")
        return task, None
    return task, head or heads_of(task)[0]


def _recipe(name: str, data: DataChoice, task: str, head: str | None, options: ProbeOptions) -> Recipe:
    """The recipe for small data sets, with the backbone frozen and the same training for every backbone."""
    spec = None if head is None else head_spec(head)
    small = _RECIPES.get(task) or ("small_masks" if spec is not None and spec.needs_masks else "small_objects")
    epochs = _EPOCHS[task]
    settings: list[Override] = [
        ("model.backbone.drop_path_rate", 0.0),
        ("train.freeze", ["backbone"]),
        ("train.optimizer.lr", 1e-3),
        ("train.optimizer.layer_decay", 1.0),
        ("train.precision", "fp32"),
        ("train.channels_last", "off"),
        ("data.workers", 0),
    ]
    if data.name != SCENES:
        settings.append(("train.epochs", epochs))
    if spec is None:
        settings.append(("data.augment.repeats", 1))
    if spec is not None and "width" in spec.option_names(task):
        settings.append(("model.head.width", _HEAD_WIDTH))
    chosen = choose_recipe(
        data,
        backbone=name,
        recipe=small,
        profile=None,
        task=task,
        head=head,
        overrides=[*settings, *options.overrides],
    )
    train = chosen.train.model_copy(update={"eval_every": chosen.train.epochs})  # no best of several evaluations
    return chosen.model_copy(update={"train": train})


def _with_weights(recipe: Recipe, named: str | None) -> Recipe:
    """The recipe with the weights named for it, or those that `finetune` would find."""
    backbone, source = recipe.model.backbone.spec, named
    if named in (None, SCENES):
        on_scenes = named == SCENES or (recipe.data.name == SCENES and recipe.model.head is not None)
        found = choose_weights(backbone, SCENES if on_scenes else "imagenet", None)
        note(f"weights: {found.source} ({found.why})")
        source = found.source
    if source == NONE:
        update: dict[str, Any] = {"weights": None} | ({} if recipe.model.head is None else {"init": "scratch"})
    else:
        assert source is not None
        update = {"weights": given_weights(source)}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=update)})
