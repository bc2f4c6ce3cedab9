"""Runs of segmentation and depth: stopped and resumed bit for bit, and evaluated by two ranks as by one."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.cli.main import main
from pvtctl.engine import FitResult, RunFolder, Stopped, fit, launch, single
from pvtctl.engine.run import TIMINGS
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task, fit_settings
from pvtctl.weights.save import save_safetensors

DIST = single("cpu")
SEGMENTATION = (
    "ade20k_semantic_fpn",
    "pvt_v2_b0",
    ["model.head={name: deeplabv3plus, width: 16, auxiliary_weight: 0.4}", "model.backbone.width=0.25"],
)
"""Dropout, drop path, an auxiliary head, crops, colours and mirrors: all that is drawn."""
DEPTH = (
    "small_depth",
    None,
    ["model.backbone={name: pvt_v2_b0, width: 0.25, drop_path_rate: 0.1}", "model.head.width=16", "train.epochs=2"],
)


def recipe_of(kind: tuple[str, str | None, list[str]], *overrides: str) -> Recipe:
    name, row, own = kind
    small = ["data.train_samples=6", "data.val_samples=3", "train.total_batch=2", *overrides]
    return load_recipe(name, row, "smoke", [*own, *small])


def task_of(recipe: Recipe) -> DataTask:
    return build_task(recipe, device="cpu", say=lambda text: None)


def train(task: DataTask, recipe: Recipe, folder: Path, *, resume: bool = False) -> FitResult:
    with RunFolder.open(folder, recipe.model_dump(mode="json"), resume=resume, dist=DIST) as run:
        settings = replace(fit_settings(recipe, 1), tensorboard=False)
        return fit(task, settings, run, DIST, save_weights=save_safetensors, talk=lambda text: None)


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in found]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[DataTask, FitResult, Path]]:
    """A whole run of a kind, made once: its task, its result and its folder."""
    made: dict[str, tuple[DataTask, FitResult, Path]] = {}

    def run(kind: tuple[str, str | None, list[str]]) -> tuple[DataTask, FitResult, Path]:
        if kind[0] not in made:
            recipe, folder = recipe_of(kind), tmp_path_factory.mktemp("runs") / "unbroken"
            task = task_of(recipe)
            made[kind[0]] = task, train(task, recipe, folder), folder
        return made[kind[0]]

    return run


@pytest.mark.parametrize(
    ("kind", "workers"),
    [(SEGMENTATION, 0), (SEGMENTATION, 2), (DEPTH, 2)],
    ids=["segmentation", "segmentation in processes", "depth in processes"],
)
def test_a_run_stopped_in_the_middle_resumes_to_the_same_bits(
    tmp_path: Path, unbroken: Callable[..., Any], kind: tuple[str, str | None, list[str]], workers: int
) -> None:
    recipe = recipe_of(kind)
    whole, expected, folder = unbroken(kind)
    assert expected.steps == 6

    task, seen = task_of(recipe), [0]
    inner = task.losses

    def interrupt(model: Any, batch: Any) -> Any:
        seen[0] += 1
        if seen[0] == 4:
            signal.raise_signal(signal.SIGTERM)
        return inner(model, batch)

    task.losses = interrupt  # type: ignore[method-assign]
    with pytest.raises(Stopped, match="epoch 2/2, step 4/6"):
        train(task, recipe, tmp_path / "run")
    resumed = task_of(recipe_of(kind, f"data.workers={workers}"))
    found = train(resumed, recipe, tmp_path / "run", resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(tmp_path / "run") == lines(folder)
    assert (found.metrics, found.best) == (expected.metrics, expected.best)


def test_iterations_end_a_run_wherever_they_fall_and_the_rate_with_them(tmp_path: Path) -> None:
    settings = [
        "train.iterations=5",
        "train.schedule={name: poly, min_lr: 1e-6, warmup_steps: 0}",
        "train.total_batch=2",
    ]
    recipe = recipe_of(SEGMENTATION, *settings)
    result = train(task_of(recipe), recipe, tmp_path / "run")
    assert (result.steps, result.epochs) == (5, 2)
    logged = [line for line in lines(tmp_path / "run") if line["event"] == "train"]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5]
    rates = [line["lr"] for line in logged]
    assert rates[0] == pytest.approx(3e-4)
    assert rates == [pytest.approx((3e-4 - 1e-6) * (1 - at / 5) ** 0.9 + 1e-6) for at in range(5)]
    assert lines(tmp_path / "run")[-1]["event"] == "eval"


@pytest.mark.parametrize("kind", [SEGMENTATION, DEPTH], ids=["segmentation", "depth"])
def test_the_states_of_two_ranks_add_up_to_the_numbers_of_one(kind: tuple[str, str | None, list[str]]) -> None:
    task: Any = task_of(recipe_of(kind, "data.val_samples=5"))
    whole, parts = task.metric(), [task.metric(), task.metric()]
    model = task.model.eval()
    with torch.inference_mode():
        for batch in task.val_loader(rank=0, world_size=1):
            whole.update(task.predict(model, batch), batch)
        for rank, metric in enumerate(parts):
            task._val_loader = None
            for batch in task.val_loader(rank=rank, world_size=2):
                metric.update(task.predict(model, batch), batch)
    assert all(metric.compute()["images"] < 5 for metric in parts)
    merged = task.metric()
    merged.merge([metric.state() for metric in parts])
    assert merged.compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert merged.compute()["images"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SEGMENTATION, DEPTH], ids=["segmentation", "depth"])
def test_two_processes_evaluate_as_one(
    tmp_path: Path, kind: tuple[str, str | None, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    task = task_of(recipe_of(kind))
    save_safetensors(tmp_path / "model.safetensors", task.model, task.meta())
    words = ["eval", "scenes", "--profile", "smoke", "--device", "cpu", "--json"]
    words += ["--weights", str(tmp_path / "model.safetensors"), "--set", "data.val_samples=5"]
    found = []
    for run in (lambda: main(words), lambda: launch([sys.executable, "-m", "pvtctl", *words], 2)):
        capfd.readouterr()
        assert run() == 0
        found.append(json.loads(capfd.readouterr().out)["metrics"])
    assert found[0]["images"] == 5
    assert found[0] == pytest.approx(found[1], nan_ok=True)
