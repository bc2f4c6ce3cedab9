"""What every task promises, tried on narrow models of rendered scenes. A new task adds one class at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from stand_in_engine import StandInEngine

from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.recipe.load import flat, load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import EvaluationRequest, PredictionRequest, PredictOptions, TaskSpec
from pvtctl.tasks.data_task import DataTask
from pvtctl.tasks.from_recipe import build_task, open_split
from pvtctl.tasks.registry import TASK_SPECS, spec_of, task_spec, tasks_of_data, tasks_reading
from pvtctl.weights.describe import Inspected, inspect_checkpoint
from pvtctl.weights.save import save_safetensors

SIZES = [(37, 53), (96, 33), (64, 64)]


@dataclass
class Saved:
    """A task, and its model as a run would save it."""

    task: DataTask
    checkpoint: Inspected


@pytest.fixture(scope="class")
def spec(request: pytest.FixtureRequest) -> TaskSpec:
    return task_spec(request.cls.name)


@pytest.fixture(scope="class")
def recipe(request: pytest.FixtureRequest) -> Recipe:
    narrow = ["model.backbone={name: pvt_v2_b0, width: 0.25}", *request.cls.settings]
    return load_recipe(request.cls.recipe_name, None, "smoke", narrow)


@pytest.fixture(scope="class")
def saved(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    task = build_task(recipe, device="cpu", say=lambda text: None)
    path = tmp_path_factory.mktemp(recipe.task) / "best.safetensors"
    save_safetensors(path, task.model, task.meta())
    return Saved(task, inspect_checkpoint(path))


class TaskContract:
    name: ClassVar[str]
    recipe_name: ClassVar[str]
    settings: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(autouse=True)
    def seeded(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield

    # what is said of it

    def test_the_table_has_it(self, spec: TaskSpec, recipe: Recipe) -> None:
        assert TASK_SPECS[spec.name] is spec is spec_of(recipe)
        assert spec.usual_data in spec.data_names
        assert all(spec.name in tasks_of_data(name) for name in spec.data_names)
        assert spec.needs

    def test_figures_have_labels(self, spec: TaskSpec) -> None:
        names = [each.name for each in spec.figures]
        assert len(set(names)) == len(names)
        assert spec.main_figure in names
        assert all(each.label and each.label != each.name for each in spec.figures)
        assert not spec.figure(spec.main_figure).lower_is_better
        assert spec.main_score in spec.headline
        assert spec.main_score == spec.curves.scores[0][0] == spec.compared_curves[0][0]

    def test_its_keys_are_keys_of_recipes(self, spec: TaskSpec, recipe: Recipe) -> None:
        keys = set(flat(recipe)) | {f"model.head.{key}" for key in ("name",)}
        for key in spec.reads:
            assert any(known == key or known.startswith(f"{key}.") for known in keys), key
            assert spec.name in tasks_reading(key)
        assert set(spec.predict_options) <= {*PredictOptions.__annotations__, "scale_shift"}

    # data

    @pytest.mark.parametrize("split", ["train", "val"])
    @pytest.mark.parametrize("role", ["train", "evaluate"])
    def test_a_split_is_the_same_each_time(self, recipe: Recipe, split: str, role: Any) -> None:
        first, second = (open_split(recipe, split, role) for _ in range(2))
        assert len(first) == (recipe.data.train_samples if split == "train" else recipe.data.val_samples)
        assert first.ids == second.ids
        assert first.training is (role == "train")
        for index in range(len(first)):
            one, other = first[index], second[index]
            assert torch.equal(one.image, other.image)
            assert one.image.isfinite().all()
        pixels, _ = first.read(0)
        assert (pixels.dtype, pixels.ndim) == (torch.uint8, 3)

    def test_a_picture_shows_the_ground_truth(self, spec: TaskSpec, recipe: Recipe) -> None:
        split = open_split(recipe, "train", "train")
        drawn = spec.draw_target(split, *split.read(0), 96)
        assert drawn.ndim == 3
        assert drawn.shape[2] == 3

    # model

    def test_a_training_step_has_a_finite_loss_and_gradients(self, saved: Saved) -> None:
        task = saved.task
        batch = next(iter(task.train_loader(epoch=0, first_batch=0, rank=0, world_size=1)))
        task.model.train()
        task.model.zero_grad()
        loss = task.losses(task.model, batch)["loss"]
        assert loss.isfinite()
        loss.backward()
        gradients = [each.grad for each in task.model.parameters() if each.grad is not None]
        assert gradients
        assert all(each.isfinite().all() for each in gradients)
        assert any(each.abs().sum() > 0 for each in gradients)
        task.model.zero_grad()

    def test_evaluation_gives_the_main_figure(self, spec: TaskSpec, saved: Saved) -> None:
        task, metric = saved.task, saved.task.metric()
        task.model.eval()
        with torch.inference_mode():
            for batch in task.val_loader(rank=0, world_size=1):
                metric.update(task.predict(task.model, batch), batch)
        numbers = metric.compute()
        assert spec.main_score in numbers
        assert spec.main_figure in spec.shown_figures(numbers)
        report = task.report(metric)
        title, columns, rows = report.terminal()
        assert title
        assert all(len(row) == len(columns) for row in rows)
        json.dumps(report.document())
        assert report.score

    def test_a_checkpoint_says_what_it_is(self, spec: TaskSpec, recipe: Recipe, saved: Saved) -> None:
        meta = saved.task.meta()
        assert CheckpointMeta.read(json.loads(json.dumps(meta.as_json())), "a file") == meta
        assert saved.checkpoint.task == spec.name
        scored = spec.as_scored(recipe, saved.checkpoint, EvaluationRequest())
        assert spec.sizes(scored).scored == spec.sizes(recipe).scored
        assert spec.sizes(scored).scored_label == spec.sizes(recipe).scored_label
        assert spec.tested_side(saved.checkpoint.meta) == min(spec.sizes(recipe).testing)

    def test_an_engine_computes_the_network_alone(self, spec: TaskSpec, saved: Saved) -> None:
        """Evaluation and prediction call the model as the engine gives it, with the same result."""
        task, cpu = saved.task, torch.device("cpu")
        engine = StandInEngine(cpu)
        before, metrics = StandInEngine.seen, [task.metric(), task.metric()]
        with torch.inference_mode():
            for batch in task.val_loader(rank=0, world_size=1):
                for metric, model in zip(metrics, (task.model.eval(), engine(task.model)), strict=True):
                    metric.update(task.predict(model, batch), batch)
        plain, own = (metric.compute() for metric in metrics)
        assert own == pytest.approx(plain, rel=1e-4, nan_ok=True)
        seen = StandInEngine.seen
        assert seen - before >= len(task.val)
        pixels = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
        predictors = [spec.predictor(PredictionRequest(saved.checkpoint, cpu, engine=each)) for each in (None, engine)]
        words = [predictor.in_words(predictor(pixels), 0.0) for predictor in predictors]
        assert words[0] == words[1]
        assert StandInEngine.seen == seen + 1

    @pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
    def test_a_predictor_takes_any_size(self, spec: TaskSpec, saved: Saved, size: tuple[int, int]) -> None:
        predictor = spec.predictor(PredictionRequest(saved.checkpoint, torch.device("cpu")))
        pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        prediction = predictor(pixels)
        assert predictor.in_words(prediction, 0.3)
        assert bool(predictor.class_names) is spec.has_classes

    def test_predictions_are_compared_with_the_ground_truth(
        self, spec: TaskSpec, recipe: Recipe, saved: Saved, tmp_path: Path
    ) -> None:
        predictor = spec.predictor(PredictionRequest(saved.checkpoint, torch.device("cpu")))
        compared = spec.comparer(predictor, recipe, open_split(recipe, "val", "evaluate"), threshold=0.3)(0)
        assert compared.verdict
        assert not math.isinf(compared.goodness)
        compared.draw(tmp_path / "a.png")
        assert (tmp_path / "a.png").is_file()


class TestClassification(TaskContract):
    name = "classification"
    recipe_name = "small_photos"


class TestDetection(TaskContract):
    name = "detection"
    recipe_name = "small_objects"
    settings = ("model.head.width=16", "data.detection.test_long_side=64")


class TestSegmentation(TaskContract):
    name = "segmentation"
    recipe_name = "small_maps"
    settings = ("model.head.width=16",)


class TestDepth(TaskContract):
    name = "depth"
    recipe_name = "small_depth"
    settings = ("model.head.width=16",)
