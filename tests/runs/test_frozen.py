"""Runs with frozen parts: said, untouched by training, averaging and stopping, alone and on two ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pvtctl.engine import single
from pvtctl.engine.log import silent
from pvtctl.errors import UsageError
from pvtctl.io.stop import Stopped
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import RecipeFaults
from pvtctl.runs.train import train_recipe, try_recipe

DIST = single("cpu")
PARTS = ("backbone.stages.0.", "backbone.stages.1.")


def recipe(*overrides: str) -> Recipe:
    small = [
        "data.train_samples=4",
        "data.val_samples=2",
        "train.epochs=2",
        "train.total_batch=2",
        "train.eval_every=2",
    ]
    more = ["model.backbone.width=0.25", "train.precision=fp32", "train.freeze=[stem, stage1, stage2]"]
    return load_recipe("imagenet_pvt_v2", "pvt_v2_b0", "smoke", [*small, *more, *overrides])


def test_what_is_frozen_is_said_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With layer decay and averaged weights; a run stopped midway ends with the same weights, to the bit."""
    own = recipe("train.optimizer.layer_decay=0.8", "train.ema.enabled=true")
    told: list[str] = []
    train_recipe(own, tmp_path / "whole", DIST, say=told.append)
    assert any(line.startswith("frozen: stem, stage1, stage2 (") for line in told)
    whole = load_file(tmp_path / "whole" / "best.safetensors")
    state = torch.load(next((tmp_path / "whole" / "checkpoints").glob("*.pt")), weights_only=True)
    stopping = own.model_copy(update={"train": own.train.model_copy(update={"max_minutes": 1e-9})})
    with pytest.raises(Stopped):
        train_recipe(stopping, tmp_path / "parts", DIST, say=silent)
    train_recipe(own, tmp_path / "parts", DIST, resume=True, say=silent)
    parts = load_file(tmp_path / "parts" / "best.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    started = try_start(own)
    frozen = [key for key in whole if key.startswith(PARTS)]
    assert frozen
    assert all(torch.equal(whole[key], started[key]) for key in frozen)
    assert all(torch.equal(state["model"][key], started[key]) for key in frozen)
    assert not any(
        torch.equal(whole[key], started[key]) for key in whole if key.endswith("attn.q.weight") and key not in frozen
    )


def try_start(own: Recipe) -> dict[str, Any]:
    from pvtctl.tasks.from_recipe import build_task

    return build_task(own, device="cpu", say=silent).model.state_dict()


def test_a_dry_run_counts_what_is_frozen() -> None:
    told: list[str] = []
    report = try_recipe(recipe("train.freeze=[backbone]"), DIST, say=told.append)
    assert 0 < report.parameters - report.frozen_parameters < 0.3 * report.parameters
    assert any("frozen backbone has random weights" in line for line in told)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("stage5", "stage"), ("backbone.norm", "backbone.norms"), ("head", "backbone"), ("stm", "stem")],
)
def test_what_does_not_exist_is_a_fault_of_the_recipe(name: str, nearest: str) -> None:
    with pytest.raises(RecipeFaults, match=f"train.freeze: pvt_v2_b0 has no {name} to freeze") as caught:
        recipe(f"train.freeze=[{name}]")
    assert nearest in str(caught.value)
    assert caught.value.exit_code == 2


def test_stages_of_timms_models_are_checked_when_they_are_built() -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    said = ["model.backbone.name=timm:test_vit", "train.freeze=[stage1]"]
    assert recipe(*said).train.freeze == ("stage1",)
    with pytest.raises(UsageError, match="has no stage7"):
        recipe(*said[:1], "train.freeze=[stage7]")


def test_resuming_with_other_parts_frozen_is_refused(tmp_path: Path) -> None:
    own = recipe()
    stopping = own.model_copy(update={"train": own.train.model_copy(update={"max_minutes": 1e-9})})
    with pytest.raises(Stopped):
        train_recipe(stopping, tmp_path / "run", DIST, say=silent)
    with pytest.raises(UsageError, match=r"train\.freeze"):
        train_recipe(recipe("train.freeze=[stem]"), tmp_path / "run", DIST, resume=True, say=silent)
    shutil.rmtree(tmp_path / "run")
