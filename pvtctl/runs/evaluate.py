"""Evaluation of trained weights, shared by `pvtctl eval` and `pvtctl.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pvtctl.engine import Distributed, evaluate, start_distributed, stop_distributed
from pvtctl.engine.log import Say, silent
from pvtctl.engine.precision import scoring_precision, wants_channels_last
from pvtctl.errors import UsageError
from pvtctl.inference import EngineName
from pvtctl.inference.engines import make_engine
from pvtctl.io.console import say as say_on_stderr
from pvtctl.io.names import plural
from pvtctl.models.fast_cpu.levers import lay_out
from pvtctl.recipe.load import Override, keys_said, load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.paper_table import ComparedFigure, compare_with_paper
from pvtctl.runs.paths import absolute_place, data_place
from pvtctl.runs.read_run import read_run
from pvtctl.tasks.base import untrained
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses, inspect_checkpoint


@dataclass(frozen=True)
class Scored:
    """The metric over all validation images."""

    task: DataTask
    metric: Any
    skipped: dict[str, str]
    """id -> reason of the images that could not be read."""
    engine: str
    """What computed the network."""
    precision: str
    """Of its arithmetic: `fp32`, `bf16` or `fp16`."""

    @property
    def computed(self) -> str:
        """Engine and precision in words."""
        return f"{self.engine} in {self.precision}"


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate_run`."""

    numbers: dict[str, float]
    """All figures; scores are fractions (`top1` 0.751, `box_ap` 0.404)."""
    figures: list[ComparedFigure]
    """The figures in the paper's table, each with the published value."""
    differences: list[str]
    """Why the figures are not comparable with the paper's."""
    skipped: dict[str, str]
    """id -> reason of the images that could not be read."""
    engine: str = EngineName.torch.value
    """What computed the network."""


def score_recipe(
    recipe: Recipe,
    head: HeadClasses,
    dist: Distributed,
    *,
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "fp32",
    partial: bool = False,
    engine: str = EngineName.torch,
    say: Say = say_on_stderr,
) -> Scored:
    """Evaluate the weights in `recipe`, with the classes of `head`, on its validation data. Raises UsageError."""
    talk = say if dist.is_main else silent
    made = make_engine(engine, dist.device, talk)
    task = build_task(recipe, device=dist.device, world_size=dist.world_size, head=head, partial=partial, say=talk)
    made.images = len(task.val)
    chosen = scoring_precision("fp32" if made.fp32 else precision, dist.device)
    classes = len(task.val.class_names)
    of_classes = f" of {plural(classes, 'class')}" if classes else ""
    how = f"in {chosen.name if made.fp32 or chosen.name == precision else chosen} by {made.name}"
    images = f"{plural(len(task.val), 'image')}{of_classes}"
    talk(f"data: {data_place(recipe)}; {images}, at {task.spec.sizes(recipe).scored_label}, {how}")
    if dist.device.type == "cuda" and wants_channels_last(task.model, dist.device, chosen):
        task.model.to(memory_format=torch.channels_last)
    runnable = made(lay_out(task.model.to(dist.device).eval(), dist.device))
    metric: Any = evaluate(task, runnable, dist, chosen, shown=talk is not silent)
    skipped = {name: reason for own in dist.gather(task.skipped) for name, reason in own.items()}
    return Scored(task, metric, skipped, made.used.value, chosen.name)


def evaluate_run(
    run: str | Path,
    data: str | Path | None = None,
    *,
    overrides: Sequence[Override] = (),
    device: str | None = None,
    engine: str = EngineName.torch,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a run's best weights as `pvtctl eval RUN` does: on the run's validation data, or on data of the same
    layout in the directory `data`, at the run's size and precision.

    `overrides` are those of `--set`, for the recipe's `data` and `eval` blocks (`eval.flip=true`). `engine` computes the
    network: `torch`, `compile`, `onnxruntime` (in fp32, whatever the run's precision), or `auto`, the faster of torch and
    onnxruntime. Nothing is written but onnxruntime's cached graph.
    Raises UsageError if `run` is not a run, for missing data, and for overrides of other blocks.
    """
    read = read_run(Path(run).expanduser(), finished=False)
    for key in sorted(keys_said(overrides)):
        if key.split(".")[0] not in ("data", "eval"):
            raise UsageError(f"{key} cannot be changed: trained weights are scored", "keys of data and eval can")
    settings = [*overrides, *([("data.path", absolute_place(data))] if data is not None else [])]
    recipe = load_recipe(read.path / "recipe.yaml", overrides=settings)
    checkpoint = inspect_checkpoint(read.path)
    assert checkpoint.head is not None  # runs train models with heads
    if data is not None and recipe.data.name == "scenes":
        raise UsageError("the run was on scenes, which is rendered", "leave data out, or override data.name too")
    batch_size = recipe.eval.batch_size or spec_of(recipe).eval_batch_size
    recipe = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"weights": checkpoint.source}),
            "train": untrained(recipe.train),
            "eval": recipe.eval.model_copy(update={"batch_size": batch_size}),
        }
    )
    dist = start_distributed(device)
    try:
        precision = read.info.get("precision", "fp32")
        say = silent if quiet else say_on_stderr
        scored = score_recipe(recipe, checkpoint.head, dist, precision=precision, engine=engine, say=say)
    finally:
        stop_distributed()
    numbers = scored.metric.compute()
    figures, differences = compare_with_paper(recipe, numbers, len(scored.task.val.class_names))
    return Evaluation(numbers, figures, differences, scored.skipped, scored.engine)
