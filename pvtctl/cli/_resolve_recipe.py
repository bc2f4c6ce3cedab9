"""Resolve the arguments of `pretrain`, `finetune` and `eval` to one recipe; report defaults chosen. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.errors import UsageError, nearest
from pvtctl.io.console import say_once
from pvtctl.io.foreign import found_instead
from pvtctl.io.urls import bare, is_url, keep_secrets

if TYPE_CHECKING:
    from pvtctl.recipe.layers import Layer
    from pvtctl.recipe.schema import Recipe

NAMED_DATA = ("imagenet", "coco", "ade20k", "pascal_context", "cityscapes", "nyu", "kitti", "mix", "scenes")
DEFAULT_BACKBONE = "pvt_small"
CLASSIFICATION_TABLES = ("imagenet_pvt_v1", "imagenet_pvt_v2")
Override = str | tuple[str, Any]


def note(text: str) -> None:
    """Print a choice once, also where it is made for several recipes: only on rank 0, and not in processes started by `--gpus`."""
    if "PVTCTL_LAUNCHER" not in os.environ and os.environ.get("RANK", "0") == "0":
        say_once(text)


@dataclass(frozen=True)
class DataChoice:
    """The data set that the user chose."""

    name: str
    """The layout (`imagenet`, `coco` ...), or `scenes`."""
    path: Path | str | None = None
    """Absolute path, or the URL, if the user gave one."""
    label: str | None = None
    """Part of the run directory's name, for the user's own data."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """`train_images`, `train_annotations`, `val_images`, `val_annotations` outside a known layout, absolute."""

    def overrides(self) -> list[Override]:
        """As overrides of a recipe."""
        named = [(f"data.{key}", str(path)) for key, path in self.files.items()]
        return [("data.name", self.name), ("data.path", str(self.path) if self.path else None), *named]


def choose_data(word: str, folder: str | None, files: Mapping[str, Path | None] | None = None) -> DataChoice:
    """Resolve DATA and `--data`: a named data set (found, or in `folder`), a folder in a known layout
    (`pvtctl.data.layouts`), or the URL of tar shards. `files` (see `DataChoice.files`) are for COCO annotations outside a known layout.

    Raises UsageError.
    """
    if word == "scenes" and folder is not None:
        raise UsageError("scenes is rendered, it needs no --data", "leave out --data, or say imagenet for a folder")
    if word == "mix" and folder is not None:
        raise UsageError("the sets of a mix have folders of their own", "--set data.depth.mix.NAME.path=FOLDER")
    named = {key: path.expanduser().absolute() for key, path in (files or {}).items() if path is not None}
    if word in NAMED_DATA:
        if named and word != "coco":
            raise UsageError(f"{word} has no images and annotations to name", "say coco, or leave them out")
        label = next((path.stem for key, path in named.items() if key.endswith("annotations")), None)
        return DataChoice(word, _place(folder), label, named)
    path = Path(word).expanduser()
    if folder is not None:
        raise UsageError(f"{word!r} and --data {folder} both name data", f"pvtctl ... imagenet --data {folder}")
    if is_url(word):
        return DataChoice("imagenet", _place(word), Path(bare(word)).name or None)
    if path.is_dir():
        from pvtctl.data.layouts import guess_layout, require_known_layout

        if not named and guess_layout(path) in (None, "coco"):
            require_known_layout(path)
        layout = "coco" if named else guess_layout(path) or "imagenet"
        return DataChoice(layout, path.absolute(), path.absolute().name, named)
    looks_like_a_path = os.sep in word or word.startswith(".")
    problem = found_instead(path, "a folder")
    problem = problem or (f"there is no folder {word}" if looks_like_a_path else f"no data set or folder {word!r}")
    close = nearest(word, NAMED_DATA)
    hint = f"{close} Or " if close.startswith("did you mean") else ""
    raise UsageError(
        problem,
        f"{hint}say {', '.join(NAMED_DATA)}, or a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, "
        "annotations/instances_{train,val}*.json, images/ and annotations/ (label maps), or rgb/ and depth/",
    )


def _place(word: str | None) -> Path | str | None:
    """An absolute path, or a URL, whose secrets are shown and written nowhere from here on."""
    if word is None:
        return None
    return keep_secrets(word) if is_url(word) else Path(word).expanduser().absolute()


def choose_task(data: DataChoice, head: str | None, task: str | None) -> str:
    """The task to train or score: `task`, else the one of head and data. Raises UsageError."""
    from pvtctl.models.registry import head_spec, heads_of
    from pvtctl.tasks.registry import task_spec, tasks_of_data

    if task is not None:
        task_spec(task)  # raises for an unknown task
    tasks = head_spec(head).tasks if head is not None else ()
    if task is not None and head is not None and task not in tasks:
        raise UsageError(f"{head} is not a head for {task}", f"--head {' | '.join(heads_of(task)) or '(none)'}")
    of_data = tasks_of_data(data.name)
    of_head = tasks if head is not None else of_data
    wanted = (task,) if task is not None else of_head
    fitting = [each for each in of_data if each in wanted]
    if not fitting:
        asked = f"--head {head}" if head is not None else f"--task {task}"
        what = f"is in the layout of {data.name}"
        if data.name == "imagenet" and isinstance(data.path, Path) and not (data.path / "train").is_dir():
            what = "is not in a known layout (docs/data.md)"
        spec = task_spec(wanted[0])
        convert = f"; {spec.convert_hint}" if spec.convert_hint else ""
        raise UsageError(
            f"{asked} needs {spec.needs}, and {data.path or data.name} {what}",
            f"say {', '.join(name for name in NAMED_DATA if name in spec.data_names)}, "
            f"or a folder of such data{convert}",
        )
    if len(fitting) > 1 and head is not None:
        note(f"task: {fitting[-1]}, as {head} is for {' and '.join(fitting)} (--task NAME)")
        return fitting[-1]
    return fitting[0]


def choose_recipe(
    data: DataChoice,
    *,
    backbone: str | None,
    recipe: str | None,
    profile: str | None,
    task: str,
    head: str | None = None,
    overrides: Sequence[Override] = (),
    trained: bool = False,
) -> Recipe:
    """The recipe of a run: `recipe` (a name or a file), or the paper's table that trains `backbone`.

    `task` is the result of `choose_task`; without `head`, its first head is used. `trained`: the head is already
    trained. Prints the defaults chosen. Raises UsageError.
    """
    from pvtctl.models.backbone_names import split_name
    from pvtctl.models.registry import backbone_spec, find_backbone, find_head, head_spec, heads_of
    from pvtctl.recipe.load import (
        backbone_of_profile,
        find_profile,
        keys_said,
        resolve,
        rows_of,
    )
    from pvtctl.recipe.scale import changes_line, profile_changes

    row: str | None
    stand_in = None
    scaled: list[Override] = []
    if backbone is not None:  # use the row of the plain backbone with that width and those options
        plain = split_name(backbone)
        scaled = [("model.backbone.width", plain.width)] if "@" in backbone else []
        if plain.options:
            find_backbone(backbone)  # raises for options that it does not have
            scaled.append(("model.backbone.options", plain.options))
        backbone = plain.name
    if recipe is not None:
        rows = rows_of(recipe)
        backbone = backbone or _default_row(recipe, rows)
        row = _row_with(recipe, rows, backbone) if backbone else None
        if row is None and backbone and rows:
            stand_in = _row_under(recipe, head, backbone)
    else:
        if backbone is None:
            backbone = DEFAULT_BACKBONE
            note(f"backbone: {backbone}, as none was named (--backbone NAME; `pvtctl models ls` lists them)")
        if head is None and (names := heads_of(task)):
            head = names[0]
            note(f"head: {head}, as none was named (--head {' | '.join(names)})")
        recipe, row = _table_with(backbone, data.name, task, head)
        stand_in = _row_under(recipe, head, backbone) if row is None else None
    if profile is None and data.name == "scenes":
        try:
            profile = find_profile(recipe, "scenes")
        except UsageError:
            profile = "paper"
        else:
            note(f"profile: {profile}, the one for scenes (--profile NAME chooses another)")
    profile = profile or "paper"
    _check_layout(data, recipe)
    settings = [*data.overrides(), *scaled, *overrides]
    if row is None and backbone is not None:
        check_backbone(backbone)
        own = head or _head_of(recipe, stand_in)
        if stand_in is not None:  # a row's pixels are those of its own weights
            settings.insert(0, ("data.normalization", None))
        settings.insert(0, ("model.backbone", _plain_backbone(backbone, own) | backbone_of_profile(recipe, profile)))
        spec = find_head(own or "")
        if spec is not None and spec.token_options and backbone_spec(backbone).patch_size is None:
            # a row's ViT had what is taken back here
            unsaid: list[Override] = [(f"model.head.{option}", None) for option in spec.token_options]
            settings[1:1] = unsaid
    if head is not None and not (rows_of(recipe) and head_spec(head).recipes):
        settings.insert(0, ("model.head.name", head))  # not a table's recipe, or an unlisted head
    resolved = resolve(recipe, row or stand_in, profile, settings, scoring=trained)
    chosen = resolved.recipe
    if head is not None and (chosen.model.head is None or chosen.model.head.name != head):
        here = "a classifier" if chosen.model.head is None else chosen.model.head.name
        raise UsageError(f"recipe {chosen.name} trains {here}, not {head}", "leave out --head or --recipe")
    if resolved.left_out:
        rules = ", ".join(f"{key} {json.dumps(value)}" for key, value in resolved.left_out.items())
        note(f"rules of {resolved.data_set} that are not used for {data.path or data.name}: {rules}")
    if data.name != "scenes" and (changes := profile_changes(recipe, row or stand_in, profile, settings)):
        note(changes_line(profile, changes))
    if stand_in is not None:
        note(f"recipe: no row of {chosen.name} trains {backbone}: its shared settings are used, without drop path")
        nothing: dict[str, Any] = {"row": None, "title": None, "paper": None, "expect": {}, "provenance": {}}
        if not trained and "model.head.scale_shift" not in keys_said(overrides):
            chosen = _for_fresh_head(chosen)
        return chosen.model_copy(update=nothing)
    note(f"recipe: {chosen.name}{f', row {chosen.row}' if chosen.row else ''}, profile {chosen.profile}")
    return chosen


def _for_fresh_head(recipe: Recipe) -> Recipe:
    """Metric depth with a scale that a new head can learn: the papers' scales fit their published weights, whose
    outputs are in the thousands."""
    head = recipe.model.head
    if head is None or head.metric_scale is None or head.metric_scale[0] > 0.01:
        return recipe
    scale_shift = (1.0, 1 / (recipe.data.depth.max_depth or 10.0))
    note(f"scale and shift of the depth: {scale_shift[0]:g}, {scale_shift[1]:g}, for a new head")
    model = recipe.model.model_copy(update={"head": head.model_copy(update={"scale_shift": scale_shift})})
    return recipe.model_copy(update={"model": model})


def _check_layout(data: DataChoice, recipe: str) -> None:
    """Raise UsageError if a recipe's task cannot use the data."""
    from pvtctl.recipe.source import read_recipe
    from pvtctl.tasks.registry import TASK_SPECS, tasks_of_data

    said = [layer.values[("task",)] for layer in read_recipe(recipe).shared if ("task",) in layer.values]
    task = said[-1] if said else "classification"
    if task not in tasks_of_data(data.name):
        needs = TASK_SPECS[task].needs if task in TASK_SPECS else task
        raise UsageError(
            f"recipe {recipe} needs {needs}, and {data.path or data.name} is in the layout of {data.name}",
            "name other data, or another recipe (`pvtctl recipes ls`)",
        )


def _table_with(backbone: str, data: str, task: str, head: str | None) -> tuple[str, str | None]:
    """The recipe and row of the paper's table that trains `backbone` with `head`; no row if no table has it.

    A table of the same data set takes precedence over the usual one of the task.
    """
    from pvtctl.models.registry import head_spec, head_specs, heads_of
    from pvtctl.recipe.load import find_row
    from pvtctl.tasks.registry import task_spec

    if head is None:
        check_backbone(backbone, CLASSIFICATION_TABLES)
        try:
            return find_row("imagenet", backbone)
        except UsageError:
            own = (table for table in CLASSIFICATION_TABLES if _has_family(table, backbone))
            return next(own, CLASSIFICATION_TABLES[0]), None
    recipes = head_spec(head).recipes  # a user's head has none: those of the task's first head are used
    table = (recipes if task in recipes else head_spec(heads_of(task)[0]).recipes)[task]
    check_backbone(backbone, sorted({name for spec in head_specs() for name in spec.recipes.values()}))
    usual = task_spec(task).usual_data
    for name in dict.fromkeys((usual if data == "scenes" else data, usual)):
        try:
            return find_row(name, backbone, task, head=head)
        except UsageError:
            continue
    return "dpt_backbones" if data == "mix" else table, None


def _row_under(recipe: str, head: str | None, backbone: str) -> str:
    """The row with this head (None: that of the shared settings) whose settings a backbone without a row is trained with.

    The first of its family; without one the first that leaves the training to the shared settings, since a row may have
    the optimizer of another family.
    """
    from pvtctl.recipe.source import read_recipe

    rows, wanted = read_recipe(recipe).rows, head or _head_of(recipe, None)
    fitting = [row for row in rows if _head_of(recipe, row) == wanted] or list(rows)
    plain = [row for row in fitting if not any(path[0] == "train" for path in rows[row].values)]
    family = [row for row in fitting if _family_of_row(rows[row]) == _family(backbone)]
    return next(iter([*family, *plain, *fitting]))


def _has_family(recipe: str, backbone: str) -> bool:
    from pvtctl.recipe.source import read_recipe

    family = _family(backbone)
    return family is not None and any(_family_of_row(row) == family for row in read_recipe(recipe).rows.values())


def _family_of_row(row: Layer) -> str | None:
    name = row.values.get(("model", "backbone", "name"))
    return _family(name) if isinstance(name, str) else None


def _family(backbone: str) -> str | None:
    """`pvt_v2`, `resnet`; None for timm's models, which are of many."""
    from pvtctl.models.registry import backbone_spec

    try:
        family = backbone_spec(backbone).family
    except UsageError:  # of a module that is not loaded here
        return None
    return None if family == "timm" else family


def _head_of(recipe: str, row: str | None) -> str | None:
    """The head of a recipe's row, or of a recipe without rows."""
    from pvtctl.recipe.layers import merge
    from pvtctl.recipe.source import read_recipe

    source = read_recipe(recipe)
    values, _ = merge([*source.shared, *([source.rows[row]] if row else [])])
    return values.get(("model", "head", "name"))


def _plain_backbone(name: str, head: str | None) -> dict[str, Any]:
    """Settings of a backbone without a row; ResNets and ViTs as in the papers with this head."""
    from pvtctl.models.registry import backbone_spec, find_head

    spec, above = backbone_spec(name), None if head is None else find_head(head)
    if above is None:
        return {"name": name}
    if not above.detects and spec.patch_size == 16:
        # DPT's tables are of 384 pixels, as the ViTs it starts from: at 224, two of three positions would be lost
        return {"name": name, "image_size": 384}
    return {"name": name, **spec.under(above)}


def _default_row(recipe: str, rows: list[str]) -> str | None:
    """The default row; None if the recipe needs none. Raises UsageError if it is ambiguous."""
    if len(rows) <= 1:
        return rows[0] if rows else None
    if DEFAULT_BACKBONE not in rows:
        raise UsageError(f"recipe {recipe} has {len(rows)} rows: say which", f"--backbone {' | '.join(rows)}")
    note(f"backbone: {DEFAULT_BACKBONE}, as none was named (--backbone NAME)")
    return DEFAULT_BACKBONE


def _row_with(recipe: str, rows: list[str], backbone: str) -> str | None:
    """The row of a recipe that has this name or trains this backbone."""
    from pvtctl.recipe.source import read_recipe

    if backbone in rows:
        return backbone
    layers = read_recipe(recipe).rows
    return next((r for r in rows if layers[r].values.get(("model", "backbone", "name")) == backbone), None)


def check_backbone(name: str, recipes: Sequence[str] = ()) -> None:
    """Raise UsageError with the nearest names unless `name` is a backbone or a row of one of the recipes."""
    from pvtctl.models.registry import backbone_spec
    from pvtctl.recipe.load import rows_of

    if not any(name in rows_of(recipe) for recipe in recipes):
        backbone_spec(name)
