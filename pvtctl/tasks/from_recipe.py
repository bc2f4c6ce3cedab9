"""Builds tasks from recipes: the part that all tasks share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pvtctl.cost.memory import warn_memory
from pvtctl.data.base import SplitDataset
from pvtctl.data.find import find_data
from pvtctl.data.survey import read_in_range, survey
from pvtctl.engine import FitSettings, resolve_batch_size
from pvtctl.errors import UsageError
from pvtctl.extensions import Extension, file_name, loaded, owners
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.names import plural, with_count
from pvtctl.models.backbones import prepare_backbones, set_activation_checkpointing
from pvtctl.models.backbones.freezing import count_frozen, freeze
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.parts import WHOLE
from pvtctl.recipe.schema import BackboneSettings, Recipe
from pvtctl.tasks.base import SPLITS, BuildRequest, Role, Say
from pvtctl.tasks.classes import training_classes
from pvtctl.tasks.data_task import DataTask, Loading
from pvtctl.tasks.reading import as_weights_expect, reading_of
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses
from pvtctl.weights.load import load_checkpoint


def build_task(
    recipe: Recipe,
    *,
    device: torch.device | str,
    world_size: int = 1,
    head: HeadClasses | None = None,
    partial: bool = False,
    say: Say = print,
) -> DataTask:
    """The task of a recipe with its model (weights loaded, reported through `say`) and data.

    With `head` only the validation data is opened, and its classes are matched to the head's by name. `partial` allows
    weights that fill less than 95 % of the backbone. Raises UsageError.
    """
    recipe = as_weights_expect(recipe, say)
    return spec_of(recipe).build(BuildRequest(recipe, torch.device(device), world_size, head, partial, say))


def open_split(recipe: Recipe, split: str, role: Role) -> SplitDataset:
    """A split of a recipe's data, as training, evaluation and all pictures of data use it.

    `role` is `train` (with the augmentation of training) or `evaluate` (its transform). Raises UsageError for
    a split that does not exist, and for data that is missing or does not suit the task.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}", f"one of: {', '.join(SPLITS)}")
    return spec_of(recipe).open_split(recipe, split, role)


def open_splits(request: BuildRequest) -> tuple[Any, Any]:
    """Training split, None for evaluation only, and validation split of a recipe. Raises UsageError."""
    val = open_split(request.recipe, "val", "evaluate")
    return (open_split(request.recipe, "train", "train") if request.head is None else None), val


def backbone_options(backbone: BackboneSettings) -> dict[str, Any]:
    """Options for `pvtctl.models.backbones.build_backbone`, without those that are in the name."""
    unset = ("name", "width", "options", *(["image_size"] if backbone.image_size is None else []))
    return {key: value for key, value in backbone if key not in unset}


def trained_head(recipe: Recipe, val: SplitDataset) -> HeadClasses:
    """The classes of a head that is trained on the data. Raises UsageError."""
    names = training_classes(val.class_names, recipe.model.num_classes)
    return HeadClasses(len(names), names)


def start_model(request: BuildRequest, head: HeadClasses, source_class_names: list[str] | None = None) -> Any:
    """The recipe's model for the classes of `head`, with fast CPU kernels: initialised from the recipe's seed, the same
    on every rank, then with its starting weights, if any; says what was loaded. Raises UsageError."""
    recipe = request.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = spec_of(recipe).new_model(recipe, head)
    if recipe.train.activation_checkpointing:
        set_activation_checkpointing(model, True)
    model = optimize_for_cpu(model)
    if (source := recipe.model.start) is not None:
        names = {"class_names": head.names, "source_class_names": source_class_names}
        request.say(load_checkpoint(model, source, partial=request.partial, **names).summary())
    if request.head is None:
        for remark in prepare_backbones(model, spec_of(recipe).sizes(recipe).training):
            request.say(f"{recipe.model.backbone.spec}: {remark}")
    backbone: Any = model.backbone
    if recipe.train.freeze:
        freeze(backbone, recipe.train.freeze)
    if request.head is None and backbone.frozen:
        count, total = count_frozen(model)
        request.say(f"frozen: {', '.join(backbone.frozen)} ({count:,} of {total:,} parameters)")
        if WHOLE in backbone.frozen and source is None:
            request.say("warning: the frozen backbone has random weights, as model.weights names none")
    return model


def loading_of(request: BuildRequest, *, eval_batch_size: int = 1, repeats: int = 1) -> Loading:
    """Loader settings of a recipe; `eval_batch_size` is the default for evaluation."""
    recipe = request.recipe
    return Loading(
        batch_size=train_batch_size(recipe, request.world_size),
        eval_batch_size=recipe.eval.batch_size or eval_batch_size,
        repeats=repeats,
        workers=recipe.data.workers,
        pin_memory=request.device.type == "cuda",
        seed=recipe.train.seed,
    )


def split_options(recipe: Recipe, split: str) -> dict[str, Any]:
    """Options from a recipe's `data` block that all tasks' readers take."""
    data = recipe.data
    return {
        "image_size": data.image_size,
        "materials": data.scenes.materials,
        "seed": recipe.train.seed,
        "reading": reading_of(recipe),
        "normalization": data.pixels,
        "samples": data.train_samples if split == "train" else data.val_samples,
    }


def settled(request: BuildRequest, train: SplitDataset | None, val: SplitDataset) -> BuildRequest:
    """The request with what only the data can tell, which is said: the range of 16-bit grey images, for both splits.

    Also says what was mended in the data or looks wrong.
    """
    for split, dataset in (("training", train), ("validation", val)):
        if dataset is None:
            continue
        if dataset.cautions:
            request.say(f"warning: {split} data: {'; '.join(each.replace('; ', ', ') for each in dataset.cautions)}")
        left_out = {kind: n for kind, n in dataset.problems.items() if kind.startswith(("images_", "depth_files_"))}
        if left_out:
            told = ", ".join(with_count(kind.replace("_", " "), count) for kind, count in left_out.items())
            request.say(f"{split} data, left out: {told}")
    data = request.recipe.data
    seen = [survey(files, len(files)) for files in (train or val).image_files()]
    if any(each.turned for each in seen):
        of = f"{sum(each.turned for each in seen)} of {plural(sum(each.looked_at for each in seen), 'image')} looked at"
        how = "turned, in the frame of the labels' size" if reading_of(request.recipe).exif else "not turned"
        request.say(f"EXIF rotation in {of}: {how} (data.exif)")
    found = next((each.grey for each in seen if each.grey is not None), None)
    if data.grey_range is not None or found is None:
        return request
    read_in_range(found, *(dataset for dataset in (train, val) if dataset is not None))
    low, high = found
    request.say(f"16-bit grey images: {low:g} becomes black, {high:g} white (data.grey_range)")
    data = data.model_copy(update={"grey_range": found})
    return replace(request, recipe=request.recipe.model_copy(update={"data": data}))


def data_folder(recipe: Recipe) -> Path:
    """Directory of the data. Raises UsageError if it is missing."""
    return find_data(recipe.data.name, recipe.data.path)


def warn_of_memory(request: BuildRequest, size: tuple[int, int], **model: int | None) -> None:
    """Warn in advance if images of `size` will not fit in memory; `model` goes to `pvtctl.cost.memory`."""
    recipe, training = request.recipe, request.head is None
    assert recipe.model.head is not None
    warn_memory(
        recipe.model.backbone.spec,
        recipe.model.head.name,
        size,
        train_batch_size(recipe, request.world_size) if training else recipe.eval.batch_size or 1,
        training=training,
        device=str(request.device),
        on_warning=lambda text: request.say(f"warning: {text}"),
        **model,
    )


def meta_of(recipe: Recipe) -> CheckpointMeta:
    """Metadata in every checkpoint of a run."""
    meta = CheckpointMeta(
        backbone=recipe.model.backbone.spec,
        data=recipe.data.name,
        recipe=recipe.name,
        row=recipe.row,
        profile=recipe.profile,
        exif=recipe.data.exif,
        grey_range=None if recipe.data.grey_range is None else list(recipe.data.grey_range),
    )
    modules = [one.as_meta() for one in extensions_of(recipe)]
    return meta.updated(modules=modules) if modules else meta


def extensions_of(recipe: Recipe) -> list[Extension]:
    """Extension files of a recipe: those of its backbone and head, and those that it lists."""
    head = recipe.model.head
    used = owners([recipe.model.backbone.name, head.name if head is not None else None])
    named = [one for one in loaded() if one.file in map(file_name, recipe.modules) and one not in used]
    return [*used, *named]


def train_batch_size(recipe: Recipe, world_size: int) -> int:
    """Images per rank and forward pass. Raises UsageError when the total batch does not divide evenly."""
    return resolve_batch_size(recipe.train.total_batch, recipe.train.batch_size, recipe.train.accumulate, world_size)


def fit_settings(recipe: Recipe, world_size: int) -> FitSettings:
    """Engine settings of a recipe."""
    return FitSettings(recipe.train, train_batch_size(recipe, world_size))
