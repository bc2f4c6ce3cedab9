"""Training steps and scores on a GPU, beside those of the CPU. `pretend_gpu.py` stands in where there is none."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from pvtctl.engine.distributed import Distributed, single
from pvtctl.engine.evaluate import evaluate
from pvtctl.engine.log import silent
from pvtctl.engine.precision import Precision, choose_precision
from pvtctl.engine.step import Stepper
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task, fit_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
RECIPES = {
    "small_photos": [],
    "small_objects": [],
    "small_masks": ["model.head={name: mask_rcnn, rois_per_image: 16}"],
    "small_maps": [],
    "small_depth": [],
}
SMALL = ["model.backbone={name: pvt_v2_b0, width: 0.25}", "train.total_batch=2", "data.workers=0"]


def task_of(recipe: str, device: str) -> tuple[DataTask, Any]:
    chosen = load_recipe(recipe, None, "smoke", [*SMALL, *RECIPES[recipe]])
    return build_task(chosen, device=device, say=silent), fit_settings(chosen, 1)


def step_on(recipe: str, precision: Precision) -> tuple[float, int]:
    """The loss of the second step, and how often torch said that the host waited for the GPU in it."""
    task, settings = task_of(recipe, "cuda")
    stepper = Stepper(task, settings, Distributed(0, 1, single("cuda").device), precision=precision, say=silent)
    task.model.train()
    batches = iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1))
    first, second = next(batches), next(batches)
    stepper([first], 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            outcome = stepper([second], 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert outcome.applied
    waits = [each for each in said if "synchroniz" in str(each.message)]
    return outcome.sums["loss"] / outcome.images, len(waits)


def loss_on(recipe: str, device: str) -> float:
    """Of the first batch, without dropout, which draws other numbers on a GPU."""
    task, _ = task_of(recipe, device)
    batch = next(iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1)))
    where = single(device).device
    with torch.no_grad():
        return float(task.losses(task.model.to(where).eval(), task.to_device(batch, where))["loss"])


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "small_masks"])  # its regions are drawn
def test_losses_are_those_of_the_cpu(recipe: str) -> None:
    assert loss_on(recipe, "cuda") == pytest.approx(loss_on(recipe, "cpu"), rel=1e-3)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["auto", "fp32", "tf32", "fp16"])
def test_every_precision_takes_steps_and_waits_once(recipe: str, name: Any) -> None:
    loss, waits = step_on(recipe, choose_precision(name, torch.device("cuda")))
    assert 0 < loss < 1000
    assert waits == 1 or recipe == "small_masks"  # the number of regions depends on values


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_scored_as_on_the_cpu(recipe: str) -> None:
    scores = []
    for device in ("cpu", "cuda"):
        task, _ = task_of(recipe, device)
        metric = evaluate(task, task.model, single(device), Precision("fp32", "asked"), shown=False)
        scores.append(metric.compute())
    assert scores[0].keys() == scores[1].keys()
    for name, value in scores[0].items():
        assert scores[1][name] == pytest.approx(value, rel=0.05, abs=0.02, nan_ok=True)
