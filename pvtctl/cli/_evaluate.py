"""What `pvtctl eval` does: choose weights and data, score, show."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pvtctl.cli._choose import (
    DEFAULT_BACKBONE,
    DataChoice,
    Found,
    Override,
    choose_data,
    choose_recipe,
    data_place,
    find_weights,
    note,
    runs_root,
)
from pvtctl.cli._console import parse_size, print_json, say, table
from pvtctl.cli._train import differences_line, one_voice, say_skipped
from pvtctl.errors import UsageError

if TYPE_CHECKING:
    from pvtctl.engine import Distributed
    from pvtctl.metrics.classification import ClassificationMetric
    from pvtctl.recipe.schema import Recipe
    from pvtctl.tasks.checkpoints import Inspected
    from pvtctl.tasks.classification import ClassificationTask

WORST_CLASSES = 10
"""Rows of the table of classes on the terminal; the report has all."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The options of `pvtctl eval`; None where the user left it open."""

    target: str
    weights: str | None
    backbone: str | None
    folder: Path | None
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


def run_evaluation(options: EvalOptions) -> None:
    """Score and show. Raises PvtctlError."""
    from pvtctl.engine import start_distributed, stop_distributed

    plan = make_plan(options)
    dist = start_distributed(options.device)
    try:
        with one_voice(dist):
            _evaluate(plan, options, dist)
    finally:
        stop_distributed()


def make_plan(options: EvalOptions) -> Plan:
    """Find weights and data, and say what was chosen. Raises UsageError; PvtctlError when a download fails."""
    from pvtctl.data import find_data
    from pvtctl.tasks.checkpoints import inspect_checkpoint

    size = _square(options.size)
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file", "name a folder, which is made where it is not there")
    run = Path(options.target) if _is_run(Path(options.target)) else None
    if run is not None:
        if options.weights is not None:
            raise UsageError(f"{run} is a run, with weights of its own", "leave out --weights, or name data instead")
        if options.profile is not None:
            raise UsageError("--profile goes with data, and a run has its own", "leave it out")
        found, data = Found(str(run), "the run's best weights"), None
    else:
        data = choose_data(options.target, options.folder)
        place = find_data(data.name, data.path)  # before anything is downloaded for it
        found = _find(options, data, place)
    checkpoint = inspect_checkpoint(found.source, options.backbone)
    if checkpoint.head is None:
        raise UsageError(
            f"{checkpoint.path} has no classification head, so it cannot be scored",
            f"train one: pvtctl finetune {options.target} --weights {found.source}",
        )
    note(f"weights: {found.source} ({found.why}), {checkpoint.backbone}, {checkpoint.head.num_classes} classes")
    recipe = _recipe(options, data, Path(found.source), checkpoint, size)
    out = options.out
    if out is None and not options.as_json:
        out = run / "eval" if run is not None else _default_out(found.source, options.target)
    return Plan(recipe, checkpoint, found, out)


def _square(text: str | None) -> int | None:
    if text is None:
        return None
    height, width = parse_size(text)
    if height != width:
        raise UsageError(f"size {text!r}: images are scored on a square crop", f"use --size {min(height, width)}")
    return height


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file() and (path / "recipe.yaml").is_file()


def _find(options: EvalOptions, data: DataChoice, place: Path) -> Found:
    if options.weights is not None:
        return Found(options.weights, "as asked")
    backbone = options.backbone or DEFAULT_BACKBONE
    if options.backbone is None:
        note(f"backbone: {backbone}, as none was named (--backbone NAME; `pvtctl models ls` lists them)")
    return find_weights(backbone, data.name, place)


def _recipe(
    options: EvalOptions, data: DataChoice | None, source: Path, checkpoint: Inspected, size: int | None
) -> Recipe:
    """The recipe that says what data is read and how: the run's own where the weights come from a run on such data."""
    from pvtctl.recipe.load import load_recipe

    of_run = load_recipe(source / "recipe.yaml") if _is_run(source) else None
    if of_run is not None and (data is None or (data.name == of_run.data.name and options.profile is None)):
        if options.folder is not None and of_run.data.name == "scenes":
            raise UsageError("the run was on scenes, which is rendered: it needs no --data", "leave out --data")
        path = options.folder or (data.path if data else None) or of_run.data.path
        changes: dict[str, Any] = {"path": path and str(path)}
        if data is not None and data.name != "scenes":
            changes["val_samples"] = None  # the data was named: all of it, however little the run looked at
        recipe = of_run.model_copy(update={"data": of_run.data.model_copy(update=changes)})
    else:
        assert data is not None  # a run as the target has its own recipe
        settings: list[Override] = [("model.num_classes", None)]
        recipe = choose_recipe(
            data, backbone=checkpoint.backbone, recipe=None, profile=options.profile, overrides=settings
        )
    return _with_sizes(recipe, checkpoint, size, options)


def _with_sizes(recipe: Recipe, checkpoint: Inspected, size: int | None, options: EvalOptions) -> Recipe:
    """The recipe at the size asked for, else the one that the weights were trained at."""
    ratio = recipe.data.resize / recipe.data.image_size
    trained = checkpoint.meta.get("image_size")
    trained = trained if isinstance(trained, int) else recipe.data.image_size
    stated = checkpoint.meta.get("resize") if size is None else None
    image_size = size or trained
    resize = options.resize or (stated if isinstance(stated, int) else round(image_size * ratio))
    if resize < image_size:
        raise UsageError(f"--resize {resize} is smaller than the crop of {image_size}", f"use at least {image_size}")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size} makes no sense", "use 1 or more")
    # Nothing is trained: a total batch that does not divide by these processes must not matter.
    train = recipe.train.model_copy(update={"activation_checkpointing": False, "batch_size": 1})
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"image_size": image_size, "resize": resize}),
            "model": recipe.model.model_copy(
                update={
                    "weights": str(checkpoint.path),
                    "backbone": recipe.model.backbone.model_copy(update={"name": checkpoint.backbone}),
                }
            ),
            "train": train,
            "eval": recipe.eval.model_copy(update={"batch_size": options.batch_size or recipe.eval.batch_size or 64}),
        }
    )


def _default_out(source: str, target: str) -> Path:
    label = "-".join(re.sub(r"[^\w.+-]+", "_", Path(part).name or part) for part in (source, target))
    return runs_root() / f"eval-{label}"


def _evaluate(plan: Plan, options: EvalOptions, dist: Distributed) -> None:
    from pvtctl.engine import choose_precision, evaluate, read_info
    from pvtctl.engine.log import silent
    from pvtctl.tasks.build import build_task

    talk = say if dist.is_main else silent
    task = build_task(
        plan.recipe,
        device=dist.device,
        world_size=dist.world_size,
        head=plan.checkpoint.head,
        partial=options.partial,
        say=talk,
    )
    info = read_info(plan.found.source)
    # a run is scored as it scored itself; published figures are best met in fp32
    precision = choose_precision(info.get("precision", "fp32"), dist.device)
    classes, size = len(task.val.class_names), plan.recipe.data.image_size
    place = data_place(plan.recipe)
    talk(f"data: {place}; {len(task.val)} images of {classes} classes, at {size} pixels, in {precision.name}")
    metric = cast("ClassificationMetric", evaluate(task, task.model, dist, precision))
    skipped = {name: reason for own in dist.gather(task.skipped) for name, reason in own.items()}
    if dist.is_main:
        _show(plan, options, task, metric, skipped, dist)


def _show(
    plan: Plan,
    options: EvalOptions,
    task: ClassificationTask,
    metric: ClassificationMetric,
    skipped: dict[str, str],
    dist: Distributed,
) -> None:
    from pvtctl.engine.environment import describe_environment
    from pvtctl.tasks.reports import Findings, draw_evaluation, per_class_rows, write_findings
    from pvtctl.tasks.results import Figure, compare_with_paper, data_label, paper_label, result_rows

    numbers = metric.compute()
    figures, differences = compare_with_paper(plan.recipe, numbers, len(task.val.class_names))
    if (published := plan.found.published_top1) is not None:
        top1 = 100 * numbers["top1"]
        figures.append(Figure("top1_published", "top-1, % (as published)", top1, None, published, not differences))
    paper = paper_label(plan.recipe)
    environment = describe_environment(dist.device)
    title = f"{plan.recipe.model.backbone.name} on {data_label(plan.recipe)}"
    files: dict[str, Path] = {}
    if plan.out is not None:
        plan.out.mkdir(parents=True, exist_ok=True)
        pictures = draw_evaluation(plan.out, task, metric)
        lead = f"{plan.found.source} ({plan.found.why}), {int(numbers['images'])} images"
        flat = plan.recipe.model_dump(mode="json")
        findings = Findings(title, lead, figures, differences, flat, environment, skipped, paper)
        files = {"report": write_findings(plan.out / "report.html", findings, metric, pictures), **pictures}
    if options.as_json:
        print_json(
            {
                "metrics": numbers,
                "chosen": {
                    "weights": plan.found.source,
                    "why": plan.found.why,
                    "backbone": plan.recipe.model.backbone.name,
                    "published_top1": plan.found.published_top1 and plan.found.published_top1 / 100,
                },
                "data": _data(plan.recipe, task, skipped),
                "per_class": per_class_rows(metric),
                "calibration": [asdict(row) for row in metric.reliability()],
                "worst": [
                    {
                        **miss._asdict(),
                        "label": task.class_names[miss.label],
                        "prediction": task.class_names[miss.prediction],
                    }
                    for miss in metric.worst()
                ],
                "environment": environment,
                "files": {name: str(path) for name, path in files.items()},
            }
        )
        return
    table(title, *result_rows(figures), caption=differences_line(paper, differences))
    _print_classes(metric)
    say_skipped(skipped)
    for name, path in files.items():
        print(f"{name.lower()}: {path}")


def _data(recipe: Recipe, task: ClassificationTask, skipped: dict[str, str]) -> dict[str, Any]:
    return {
        "name": recipe.data.name,
        "path": recipe.data.path,
        "images": len(task.val),
        "classes": len(task.val.class_names),
        "image_size": recipe.data.image_size,
        "resize": recipe.data.resize,
        "skipped": skipped,
    }


def _print_classes(metric: ClassificationMetric) -> None:
    from pvtctl.tasks.reports import worst_classes_first

    classes = worst_classes_first(metric)
    shown = [
        [row["name"], row["images"], f"{100 * row['top1']:.1f}", row["taken_for"] or "-"]
        for row in classes[:WORST_CLASSES]
    ]
    heading = (
        "Classes, worst first"
        if len(classes) <= WORST_CLASSES
        else f"The {WORST_CLASSES} worst of {len(classes)} classes"
    )
    table(heading, ["class", "images", "top-1, %", "most often taken for"], shown)
