"""What `eval.max_depth` asks for is scored wherever images are: by `eval`, and by `visualize predictions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.load_run import load_run
from pvtctl.tasks.from_recipe import build_task, open_split
from pvtctl.weights.save import save_safetensors


@pytest.fixture
def recipe() -> Recipe:
    settings = ["data.depth.max_depth=4", "eval.max_depth=20", "model.backbone={name: pvt_v2_b0, width: 0.25}"]
    return load_recipe("small_depth", None, "smoke", [*settings, "model.head.width=16"])


def test_true_depths_are_the_same_in_evaluation_and_in_pictures(recipe: Recipe) -> None:
    task: Any = build_task(recipe, device="cpu", say=lambda text: None)
    shown: Any = open_split(recipe, "val", "evaluate")
    for index in range(len(shown)):
        scored, drawn = task.val.read(index)[1], shown.read(index)[1]
        assert torch.equal(scored, drawn)
    assert int((shown.read(0)[1] > 0).sum()) == 4096
    learned = open_split(recipe, "train", "train").read(0)[1]
    assert float(learned.max()) <= 4, "training learns up to data.depth.max_depth"


def test_eval_and_visualize_predictions_score_an_image_alike(recipe: Recipe, tmp_path: Path) -> None:
    task: Any = build_task(recipe, device="cpu", say=lambda text: None)
    task.model.eval()
    metric = task.metric()
    with torch.inference_mode():
        for batch in task.val_loader(rank=0, world_size=1):
            metric.update(task.predict(task.model, batch), batch)
    save_safetensors(tmp_path / "best.safetensors", task.model, task.meta())
    loaded = load_run(tmp_path / "best.safetensors", device="cpu")
    compare = task.spec.comparer(loaded.predictor, recipe, open_split(recipe, "val", "evaluate"), threshold=0.3)
    rows = {int(row["index"]): float(row["abs_rel"]) for row in metric.rows()}
    for index in range(len(task.val)):
        assert -compare(index).goodness == pytest.approx(rows[index], rel=1e-3)
