"""Every task feeds its network the pixels that the weights were trained with, unless another choice is stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pvtctl.data.transforms import denormalize
from pvtctl.errors import UsageError
from pvtctl.export.source import from_checkpoint
from pvtctl.io.normalization import HALF, IMAGENET, Normalization
from pvtctl.models.backbones import build_backbone
from pvtctl.recipe.load import load_recipe
from pvtctl.runs.load_run import load_run
from pvtctl.tasks.base import PredictOptions
from pvtctl.tasks.from_recipe import build_task
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.save import save_safetensors

RECIPES = {
    "small_photos": [],
    "small_objects": ["model.head.width=32", "data.detection.test_short_side=64", "data.detection.test_long_side=64"],
    "small_maps": [
        "model.head.width=32",
        "data.segmentation.test_short_side=64",
        "data.segmentation.test_long_side=64",
    ],
    "small_depth": ["model.head.width=32", "data.depth.test_size=[64, 64]"],
}
OWN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bgr")
BACKBONE = "pvt_v2_b0@0.25"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of unusual pixels."""
    path = tmp_path_factory.mktemp("pixels") / "own.safetensors"
    torch.manual_seed(0)
    state = {f"backbone.{key}": value for key, value in build_backbone(BACKBONE).state_dict().items()}
    meta = {"mean": list(OWN.mean), "std": list(OWN.std), "channel_order": "bgr"}
    save_safetensors(path, state, {"backbone": BACKBONE, **meta})
    return path


def task_of(name: str, weights: Path | None, *settings: str, said: list[str] | None = None) -> Any:
    small = [
        "data.name=scenes",
        "data.image_size=64",
        "data.train_samples=8",
        "data.val_samples=2",
        "train.total_batch=2",
    ]
    small += [f"model.backbone={{name: {BACKBONE}, width: 0.25}}", "data.workers=0"]
    small += [f"model.weights={weights}"] if weights is not None else []
    recipe = load_recipe(name, overrides=[*small, *RECIPES[name], *settings])
    return build_task(recipe, device="cpu", say=([] if said is None else said).append)


@pytest.mark.parametrize("name", RECIPES)
def test_training_takes_those_of_the_weights(name: str, weights: Path, tmp_path: Path) -> None:
    said: list[str] = []
    task = task_of(name, weights, said=said)
    assert task.train.normalization == task.val.normalization == task.meta().pixels == OWN
    assert sum("pixels: mean 0.1, 0.2, 0.3" in line and "BGR" in line for line in said) == 1
    plain = task_of(name, None)
    assert plain.val.normalization == IMAGENET
    ours, theirs = (denormalize(each.val[0].image, each.val.normalization) for each in (task, plain))
    assert torch.equal(ours, theirs)
    trained = tmp_path / "trained.safetensors"
    save_safetensors(trained, task.model, task.meta())
    assert inspect_checkpoint(trained).pixels.normalization == OWN
    assert from_checkpoint(str(trained)).normalization == OWN
    model = load_run(trained)
    assert getattr(model.predictor, "normalization", None) or model.predictor.transform.normalization == OWN
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    model.model.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
    stated: list[PredictOptions] = [{}, {"normalization": str(OWN)}, {"normalization": "imagenet"}]
    for options in stated:
        model.predict(pixels, **options)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(denormalize(seen[0], OWN), denormalize(seen[2]))
    with pytest.raises(UsageError, match="'halve' is not a mean"):
        model.predict(pixels, normalization="halve")


def test_a_stated_choice_stays_and_the_difference_is_said(weights: Path) -> None:
    said: list[str] = []
    task = task_of("small_photos", weights, "data.normalization=half", said=said)
    assert (task.val.normalization, task.meta().pixels) == (HALF, HALF)
    assert sum(line.startswith("note: data.normalization is half, and the weights") for line in said) == 1
