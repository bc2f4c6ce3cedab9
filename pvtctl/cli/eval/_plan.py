"""What `pvtctl eval` scores: the weights, the data and the recipe that say how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._console import parse_size
from pvtctl.cli._resolve_recipe import (
    DEFAULT_BACKBONE,
    NEEDS,
    DataChoice,
    Override,
    choose_data,
    choose_recipe,
    choose_task,
    note,
)
from pvtctl.cli._weights import Found, find_weights
from pvtctl.errors import UsageError
from pvtctl.runs.paths import runs_root

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe
    from pvtctl.tasks.classes import Head
    from pvtctl.weights.describe import Inspected


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of `pvtctl eval`; None where the user left it open."""

    target: str
    weights: str | None
    backbone: str | None
    head: str | None
    task: str | None
    folder: Path | None
    files: Mapping[str, Path | None] = field(default_factory=dict)
    """Images and annotations that lie in no layout (`DataChoice.files`)."""
    testing: Mapping[str, Any] = field(default_factory=dict)
    """Values of a recipe's `eval` block: score_threshold, flip, ratios, alignment ...; None: not said."""
    overrides: Sequence[str] = ()
    """`--set KEY=VALUE`."""

    @property
    def settings(self) -> list[Override]:
        """All that is said about the recipe."""
        said: list[Override] = [(f"eval.{key}", value) for key, value in self.testing.items() if value is not None]
        return [*said, *self.overrides]

    @property
    def asked(self) -> set[str]:
        """The keys that `--set` gives a value."""
        from pvtctl.recipe.load import keys_said

        return keys_said(self.overrides)

    scale_shift: tuple[float, float] | None
    """Of metric depth, where the weights do not say their own."""
    size: str | None
    resize: int | None
    batch_size: int | None
    profile: str | None
    partial: bool
    device: str | None
    out: Path | None
    as_json: bool


@dataclass(frozen=True)
class Plan:
    """What is scored on what."""

    recipe: Recipe
    checkpoint: Inspected
    found: Found
    out: Path | None

    @property
    def head(self) -> Head:
        """The checkpoint's classes, as `build_task` takes them."""
        assert self.checkpoint.head is not None
        return self.checkpoint.head


def make_plan(options: EvalOptions) -> Plan:
    """Find weights and data, and say what was chosen. Raises UsageError; PvtctlError when a download fails."""
    from pvtctl.data.find import find_data
    from pvtctl.weights.describe import inspect_checkpoint

    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file", "name a folder, which is made where it is not there")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} makes no sense", "use 1 or more")
    run = Path(options.target) if _is_run(Path(options.target)) else None
    if run is not None:
        if options.weights is not None:
            raise UsageError(f"{run} is a run, with weights of its own", "leave out --weights, or name data instead")
        if options.profile is not None:
            raise UsageError("--profile goes with data, and a run has its own", "leave it out")
        found, data = Found(str(run), "the run's best weights"), None
    else:
        data = choose_data(options.target, options.folder, options.files)
        place = None if data.files else find_data(data.name, data.path)  # before anything is downloaded for it
        found = _find(options, data, place)
    checkpoint = inspect_checkpoint(found.source, options.backbone)
    if checkpoint.foreign is not None:
        raise UsageError(
            f"{checkpoint.path} holds {checkpoint.foreign}, which pvtctl does not build",
            "docs/checkpoints.md lists what is read; `pvtctl eval --results` scores the detections of any detector",
        )
    if checkpoint.head is None:
        raise UsageError(
            f"{checkpoint.path} has no head, so it cannot be scored",
            f"train one: pvtctl finetune {options.target} --weights {found.source}",
        )
    _check_task(options, data, checkpoint)
    told = "" if checkpoint.task == "depth" else f", {checkpoint.head.num_classes} classes"
    note(f"weights: {found.source} ({found.why}), {checkpoint.what}{told}")
    recipe = _recipe(options, data, Path(found.source), checkpoint)
    out = options.out
    if out is None and not options.as_json:
        out = run / "eval" if run is not None else _default_out(found.source, options.target)
    return Plan(recipe, checkpoint, found, out)


def _check_task(options: EvalOptions, data: DataChoice | None, checkpoint: Inspected) -> None:
    """Raise UsageError where weights, head, data and options do not belong together."""
    from pvtctl.recipe.agreement import tasks_reading
    from pvtctl.recipe.vocabulary import tasks_of_data

    holds = f"{checkpoint.backbone} under {checkpoint.head_name}" if checkpoint.head_name else checkpoint.backbone
    holds += f" for {checkpoint.task}"
    wrong_head = options.head is not None and options.head != checkpoint.head_name
    if wrong_head or (options.task is not None and options.task != checkpoint.task):
        asked = f"a {options.head}" if wrong_head else f"a model for {options.task}"
        train = f"train one from it: pvtctl finetune {options.target} --weights {checkpoint.path}"
        train += f" --head {options.head}" if wrong_head else f" --task {options.task}"
        hint = "leave it out, or name other weights" if checkpoint.head_name else train
        raise UsageError(f"{checkpoint.path} holds {holds}, not {asked}", hint)
    if data is not None and checkpoint.task not in (reads := tasks_of_data(data.name)):
        wanted = NEEDS[str(checkpoint.task)]
        train = f"train one for it: pvtctl finetune {options.target} --weights {checkpoint.path}"
        hint = train if checkpoint.task == "classification" else f"name data with {wanted}, or other weights"
        raise UsageError(
            f"{checkpoint.path} holds {holds}, and {options.target} has {NEEDS[reads[0]]}, not {wanted}", hint
        )
    for key, value in options.testing.items():
        tasks = tasks_reading(f"eval.{key}")
        if value is not None and checkpoint.task not in tasks:
            option = {"max_depth": "max-depth", "crop": "depth-crop"}.get(key, key.replace("_", "-"))
            raise UsageError(
                f"--{option} is for {' and '.join(tasks)}, and these weights are for {checkpoint.task}", "leave it out"
            )
    if checkpoint.task != "classification" and options.resize is not None:
        raise UsageError("--resize is for classifiers", "--size says the size that others see")


def _square(text: str | None) -> int | None:
    if text is None:
        return None
    height, width = parse_size(text)
    if height != width:
        raise UsageError(f"size {text!r}: images are scored on a square crop", f"use --size {min(height, width)}")
    return height


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() and (path / "recipe.yaml").is_file()


def _find(options: EvalOptions, data: DataChoice, place: Path | None) -> Found:
    from pvtctl.recipe.vocabulary import HEADS_OF

    if options.weights is not None:
        return Found(options.weights, "as asked")
    backbone = options.backbone or DEFAULT_BACKBONE
    if options.backbone is None:
        note(f"backbone: {backbone}, as none was named (--backbone NAME; `pvtctl models ls` lists them)")
    task = choose_task(data, options.head, options.task)
    head = options.head
    if head is None and HEADS_OF[task]:
        head = HEADS_OF[task][0]
        note(f"head: {head}, as none was named (--head {' | '.join(HEADS_OF[task])})")
    return find_weights(backbone, data.name, place, head, task)


def _recipe(options: EvalOptions, data: DataChoice | None, source: Path, checkpoint: Inspected) -> Recipe:
    """The recipe that says what data is read and how: the run's own where the weights come from a run on such data."""
    from pvtctl.recipe.load import load_recipe

    of_run = load_recipe(source / "recipe.yaml", overrides=options.settings) if _is_run(source) else None
    if of_run is not None and (data is None or (data.name == of_run.data.name and options.profile is None)):
        if options.folder is not None and of_run.data.name == "scenes":
            raise UsageError("the run was on scenes, which is rendered: it needs no --data", "leave out --data")
        changes: dict[str, Any] = {}
        if data is not None and (data.path or data.files):  # the data was named: nothing of the run's own is meant
            nothing = dict.fromkeys(("path", "train_images", "train_annotations", "val_images", "val_annotations"))
            changes = {**nothing, "path": data.path and str(data.path)}
            changes |= {key: str(path) for key, path in data.files.items()}
        elif options.folder is not None:
            changes["path"] = str(options.folder)
        if data is not None and data.name != "scenes" and "data.val_samples" not in options.asked:
            changes["val_samples"] = None  # all of it, however little the run looked at
        recipe = of_run.model_copy(update={"data": of_run.data.model_copy(update=changes)})
    else:
        assert data is not None  # a run as the target has its own recipe
        settings: list[Override] = [("model.num_classes", None), *options.settings]
        recipe = choose_recipe(
            data,
            backbone=checkpoint.backbone,
            recipe=None,
            profile=options.profile,
            task=str(checkpoint.task),
            head=checkpoint.head_name,
            overrides=settings,
            trained=True,
        )
    return _as_scored(recipe, checkpoint, options)


def _as_scored(recipe: Recipe, checkpoint: Inspected, options: EvalOptions) -> Recipe:
    """The recipe with the weights' own model, at the size asked for, else the one that they were trained at."""
    from pvtctl.tasks.depth.settings import Loss

    # Nothing is trained: a total batch that does not divide by these processes must not matter.
    untrained: dict[str, Any] = {"activation_checkpointing": False, "batch_size": 1, "loss": Loss()}
    train = recipe.train.model_copy(update=untrained)
    model: dict[str, Any] = {
        "weights": str(checkpoint.path),
        "backbone": recipe.model.backbone.model_copy(update=_named(checkpoint.backbone)),
    }
    batch_size = options.batch_size or recipe.eval.batch_size
    alignment = recipe.eval.alignment
    match checkpoint.task:
        case "detection":
            assert recipe.model.head is not None
            assert checkpoint.detector is not None
            model["head"] = recipe.model.head.model_copy(
                update={
                    "num_queries": checkpoint.detector.num_queries or 100,
                    "dropout": None,
                    "width": checkpoint.detector.width,
                }
            )
            sizes = {
                "detection": recipe.data.detection.model_copy(update=_detection_sizes(recipe, checkpoint, options.size))
            }
        case "segmentation" | "depth":
            model |= dense_model(recipe, checkpoint, options.scale_shift)
            sizes = _dense_sizes(recipe, checkpoint, options)
            said = options.testing.get("alignment") or "eval.alignment" in options.asked
            if model["head"].scale_shift is None and not said:
                alignment = "auto"  # a recipe of metric depth says none
        case _:
            batch_size = batch_size or 64
            sizes = _crop_sizes(recipe, checkpoint, options)
    scored = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=sizes),
            "model": recipe.model.model_copy(update=model),
            "train": train,
            "eval": recipe.eval.model_copy(update={"batch_size": batch_size, "alignment": alignment}),
        }
    )
    _check_followed(options.asked, recipe, scored)
    return scored


def _named(spec: str) -> dict[str, Any]:
    """A backbone's name and width as recipes have them."""
    from pvtctl.models.variants import split_width

    name, width = split_width(spec)
    return {"name": name, "width": width}


def _check_followed(said: set[str], recipe: Recipe, scored: Recipe) -> None:
    """Raise UsageError for what `--set` says of training, or against the weights or another option."""
    from pvtctl.recipe.compare import differences

    overruled = differences(recipe, scored)
    for key in sorted(said):
        if key.startswith("train."):
            raise UsageError(f"--set {key}: nothing is trained here", "leave it out")
        if key in overruled:
            now = overruled[key][1]
            raise UsageError(
                f"--set {key} is not followed: it is {now}, as the weights or another option have it", "leave it out"
            )


def _detection_sizes(recipe: Recipe, checkpoint: Inspected, text: str | None) -> dict[str, Any]:
    """`test_short_side` and `test_long_side`: as asked (the long side in proportion), else as the weights were tested."""
    own = recipe.data.detection
    if text is not None:
        sides = sorted(parse_size(text))
        if sides[0] == sides[1]:
            sides[1] = round(sides[0] * own.test_long_side / own.test_short_side)
        return {"test_short_side": sides[0], "test_long_side": sides[1]}
    trained = checkpoint.meta.get("detection")
    keys = ("test_short_side", "test_long_side")
    if isinstance(trained, Mapping) and all(isinstance(trained.get(key), int) for key in keys):
        return {key: trained[key] for key in keys}
    return {}


def dense_model(recipe: Recipe, checkpoint: Inspected, scale_shift: tuple[float, float] | None) -> dict[str, Any]:
    """`backbone` and `head` of a recipe's model, as a segmentation or depth checkpoint needs them."""
    from pvtctl.recipe.schema import Backbone, Head

    dense = checkpoint.dense
    assert dense is not None
    if scale_shift is not None and dense.task != "depth":
        raise UsageError("--scale-shift is for depth, and these weights are for segmentation", "leave it out")
    own = recipe.model.backbone
    stride = dense.output_stride or (own.output_stride if own.spec == checkpoint.backbone else 32)
    head = {key: value for key, value in dense.options.items() if key in Head.model_fields}
    return {
        "backbone": Backbone.model_validate(
            {"name": checkpoint.backbone, "output_stride": stride, "image_size": checkpoint.position_size}
        ),
        "head": Head(name=dense.head, scale_shift=scale_shift or dense.scale_shift, **head),
    }


def _dense_sizes(recipe: Recipe, checkpoint: Inspected, options: EvalOptions) -> dict[str, Any]:
    """The data block's sizes and normalisation: as asked, else as the weights were tested."""
    dense = checkpoint.dense
    assert dense is not None
    text = options.size
    own = getattr(recipe.data, dense.task)
    keys = ("test_short_side", "test_long_side", "align") if dense.task == "segmentation" else ("test_size", "multiple")
    trained = checkpoint.meta.get(dense.task)
    changes: dict[str, Any] = {}
    if isinstance(trained, Mapping):
        changes = {
            key: trained[key] for key in keys if key in trained and f"data.{dense.task}.{key}" not in options.asked
        }
    if text is not None and dense.task == "depth":
        changes["test_size"] = parse_size(text)
    elif text is not None:
        short, long = sorted(parse_size(text))
        changes["test_short_side"] = short
        changes["test_long_side"] = long if long > short else round(short * own.test_long_side / own.test_short_side)
    if "test_size" in changes:
        changes["test_size"] = tuple(changes["test_size"])
    sizes: dict[str, Any] = {dense.task: own.model_copy(update=changes)}
    return sizes | ({"normalization": dense.normalization} if dense.normalization else {})


def _crop_sizes(recipe: Recipe, checkpoint: Inspected, options: EvalOptions) -> dict[str, Any]:
    """`image_size` and `resize` of a classifier."""
    size = _square(options.size)
    ratio = recipe.data.resize / recipe.data.image_size
    trained = checkpoint.meta.get("image_size")
    trained = trained if isinstance(trained, int) else recipe.data.image_size
    stated = checkpoint.meta.get("resize") if size is None else None
    image_size = size or trained
    resize = options.resize or (stated if isinstance(stated, int) else round(image_size * ratio))
    if resize < image_size:
        raise UsageError(f"--resize {resize} is smaller than the crop of {image_size}", f"use at least {image_size}")
    return {"image_size": image_size, "resize": resize}


def _default_out(source: str, target: str) -> Path:
    label = "-".join(re.sub(r"[^\w.+-]+", "_", Path(part).name or part) for part in (source, target))
    return runs_root() / f"eval-{label}"
