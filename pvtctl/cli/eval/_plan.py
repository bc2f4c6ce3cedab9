"""Plan of `pvtctl eval`: weights, data and recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtctl.cli._resolve_recipe import (
    DEFAULT_BACKBONE,
    DataChoice,
    Override,
    choose_data,
    choose_recipe,
    choose_task,
    note,
)
from pvtctl.cli._weights import Found, choose_weights
from pvtctl.cli.eval import EvalOptions, option_name
from pvtctl.errors import UsageError
from pvtctl.io.names import plural
from pvtctl.io.urls import is_url, keep_secrets
from pvtctl.runs.paths import named_folder

if TYPE_CHECKING:
    from pvtctl.recipe.schema import Recipe
    from pvtctl.weights.describe import HeadClasses, Inspected


@dataclass(frozen=True)
class EvalPlan:
    """The weights, data and recipe to evaluate."""

    recipe: Recipe
    checkpoint: Inspected
    found: Found
    out: Path | None

    @property
    def head(self) -> HeadClasses:
        """The checkpoint's classes, for `build_task`."""
        assert self.checkpoint.head is not None
        return self.checkpoint.head


def make_eval_plan(options: EvalOptions) -> EvalPlan:
    """Find weights and data, and print the choices. Raises UsageError; PvtctlError if a download fails."""
    from pvtctl.data.find import find_data
    from pvtctl.tasks.registry import task_spec
    from pvtctl.weights.describe import inspect_checkpoint

    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file", "name a folder; it is created if missing")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} makes no sense", "use 1 or more")
    run = Path(options.target) if _is_run(Path(options.target)) else None
    if run is not None:
        if options.weights is not None:
            raise UsageError(f"{run} is a run with its own weights", "leave out --weights, or name data instead")
        if options.profile is not None:
            raise UsageError("--profile goes with data, and a run has its own", "leave it out")
        found, data = Found(str(run), "the run's best weights"), None
    else:
        data = choose_data(options.target, options.folder, options.files)
        # before anything is downloaded for it
        place = None if data.files or is_url(data.path) else find_data(data.name, data.path)
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
    told = f", {plural(checkpoint.head.num_classes, 'class')}" if task_spec(str(checkpoint.task)).has_classes else ""
    note(f"weights: {found.source} ({found.why}), {checkpoint.what}{told}")
    recipe = _recipe(options, data, Path(found.source), checkpoint)
    out = options.out
    if out is None and not options.as_json:
        out = (
            run / "eval"
            if run is not None
            else named_folder("eval", *(Path(part).name or part for part in (found.source, options.target)))
        )
    return EvalPlan(recipe, checkpoint, found, out)


def _check_task(options: EvalOptions, data: DataChoice | None, checkpoint: Inspected) -> None:
    """Raise UsageError if weights, head, data and options do not fit together."""
    from pvtctl.tasks.registry import task_spec, tasks_of_data, tasks_reading

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
        wanted = task_spec(str(checkpoint.task)).needs
        train = f"train one for it: pvtctl finetune {options.target} --weights {checkpoint.path}"
        hint = f"name data with {wanted}, or other weights" if checkpoint.head_name else train
        raise UsageError(
            f"{checkpoint.path} holds {holds}, and {options.target} has {task_spec(reads[0]).needs}, not {wanted}", hint
        )
    for key in options.testing:
        tasks = tasks_reading(f"eval.{key}")
        if checkpoint.task not in tasks:
            raise UsageError(
                f"--{option_name(key)} is for {' and '.join(tasks)}, and these weights are for {checkpoint.task}",
                "leave it out",
            )
    if checkpoint.task not in tasks_reading("data.resize") and options.resize is not None:
        raise UsageError("--resize is for classifiers", "--size sets the size for other tasks")


def _is_run(path: Path) -> bool:
    """Whether it is the folder of a run. Raises UsageError if one of the files that make it one was lost."""
    names = ("run.json", "recipe.yaml")
    lost = [name for name in names if not (path / name).exists()]
    if len(lost) == 1 and ((path / "checkpoints").is_dir() or (path / "best.safetensors").exists()):
        raise UsageError(f"the run in {path} is only half there: it has no {lost[0]}", "copy the whole folder")
    return not lost


def _find(options: EvalOptions, data: DataChoice, place: Path | None) -> Found:
    from pvtctl.models.registry import heads_of

    if options.weights is not None:
        return Found(options.weights, "as asked")
    backbone = options.backbone or DEFAULT_BACKBONE
    if options.backbone is None:
        note(f"backbone: {backbone}, as none was named (--backbone NAME; `pvtctl models ls` lists them)")
    task = choose_task(data, options.head, options.task)
    head = options.head
    if head is None and (names := heads_of(task)):
        head = names[0]
        note(f"head: {head}, as none was named (--head {' | '.join(names)})")
    return choose_weights(backbone, data.name, place, head, task)


def _recipe(options: EvalOptions, data: DataChoice | None, source: Path, checkpoint: Inspected) -> Recipe:
    """The recipe for reading the data (the run's own if the weights are from a run on such data), with the model of the
    weights, at the given size, else the training size. Raises UsageError for `--set` keys that would not be followed.
    """
    from pvtctl.recipe.load import load_recipe, recipe_differences
    from pvtctl.tasks.base import EvaluationRequest
    from pvtctl.tasks.reading import read_as_trained
    from pvtctl.tasks.registry import task_spec

    of_run = load_recipe(source / "recipe.yaml", overrides=options.settings) if _is_run(source) else None
    if of_run is not None and (data is None or (data.name == of_run.data.name and options.profile is None)):
        if options.folder is not None and of_run.data.name == "scenes":
            raise UsageError("the run was on scenes, which is rendered: it needs no --data", "leave out --data")
        changes: dict[str, Any] = {}
        if data is not None and (data.path or data.files):  # the data was named: do not use the run's
            nothing = dict.fromkeys(("path", "train_images", "train_annotations", "val_images", "val_annotations"))
            changes = {**nothing, "path": data.path and str(data.path)}
            changes |= {key: str(path) for key, path in data.files.items()}
        elif options.folder is not None:
            changes["path"] = keep_secrets(options.folder)
        if data is not None and data.name != "scenes" and "data.val_samples" not in options.asked:
            changes["val_samples"] = None  # all of it, even if the run used less
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
    request = EvaluationRequest(
        size=options.size,
        resize=options.resize,
        batch_size=options.batch_size,
        scale_shift=options.scale_shift,
        alignment=options.alignment,
        asked=options.asked,
    )
    pixels = None if "data.normalization" in options.asked else checkpoint.pixels
    recipe = read_as_trained(recipe, checkpoint.meta, pixels)
    scored = task_spec(str(checkpoint.task)).as_scored(recipe, checkpoint, request)
    overruled = recipe_differences(recipe, scored)
    for key in sorted(options.asked):
        if key.startswith("train."):
            raise UsageError(f"--set {key}: nothing is trained here", "leave it out")
        if key in overruled:
            now = overruled[key][1]
            raise UsageError(
                f"--set {key} is not followed: it is {now}, as the weights or another option have it", "leave it out"
            )
    return scored
