"""From a recipe to a finished run: what is told on the way, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pvtctl.engine import single
from pvtctl.engine.log import silent
from pvtctl.errors import UsageError
from pvtctl.models.fast_cpu.choices import Choices, active, before_measurement, using
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.runs import train
from pvtctl.runs.paths import data_place, default_out
from pvtctl.runs.train import train_recipe, try_recipe

DIST = single("cpu")


@pytest.fixture
def recipe() -> Recipe:
    small = ["data.train_samples=4", "data.val_samples=2", "train.epochs=1", "train.total_batch=2"]
    small += ["model.backbone.width=0.25"]
    return load_recipe("imagenet_pvt_v2", "pvt_v2_b0", "smoke", small)


def test_a_run_tells_what_it_does_and_returns_what_it_reached(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    result = train_recipe(recipe, tmp_path / "run", DIST, say=told.append)
    assert result is not None
    assert result.path == tmp_path / "run"
    assert result.fit.best_epoch == result.best_epoch == 1
    assert result.numbers == result.summary.numbers
    assert all(path.exists() for path in result.summary.files.values())
    place = told.index("data: scenes, rendered as needed; 4 training and 2 validation images, 12 classes")
    assert place < told.index(f"run directory: {tmp_path / 'run'}")
    assert any(line.startswith("epoch 1/1") for line in told)
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="exists already"):
        train_recipe(recipe, tmp_path / "run", DIST, say=silent)


def test_a_run_goes_on_with_the_kernels_it_was_begun_with(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured meanwhile; a run that is older than the measurements, with what was taken then."""
    begun, later = Choices(patch_products=True), Choices(split_readout=True)
    with using(begun):
        train_recipe(recipe, tmp_path / "run", DIST, say=silent)
    file = tmp_path / "run" / "environment.json"
    starts = json.loads(file.read_text())
    assert Choices.from_json(starts[0]["kernels"]) == begun
    used: list[Choices] = []
    monkeypatch.setattr(train, "_train", lambda *_, **__: used.append(active()))
    with using(later):
        train_recipe(recipe, tmp_path / "run", DIST, resume=True, say=silent)
        del starts[0]["kernels"]
        file.write_text(json.dumps(starts))
        train_recipe(recipe, tmp_path / "run", DIST, resume=True, say=silent)
        assert active() == later
    assert used == [begun, before_measurement(torch.backends.cpu.get_cpu_capability())]


def test_it_says_with_which_kernels_and_how_to_measure_them(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with using(Choices()):
        try_recipe(recipe, DIST, say=told.append)
        monkeypatch.setenv("PVTCTL_FAST_CPU", "0")
        try_recipe(recipe, DIST, say=told.append)
        monkeypatch.delenv("PVTCTL_FAST_CPU")
    with using(Choices(patch_products=True)):
        try_recipe(recipe, DIST, say=told.append)
    unmeasured, off, measured = (line for line in told if line.startswith("CPU kernels: "))
    assert unmeasured.startswith(f"{off}; pvtctl doctor --calibrate")
    assert off == "CPU kernels: PyTorch's own kernels"
    assert measured == "CPU kernels: patch convolutions as products in training"


def test_pictures_that_cannot_be_drawn_cost_nothing_else(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the run, after whichever epoch, nor its report."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("can't measure length of multiline text")

    monkeypatch.setattr("pvtctl.tasks.classification.pictures.draw_confusion", fail)
    monkeypatch.setattr("pvtctl.views.curves.draw_curves", fail)
    result = train_recipe(recipe, tmp_path / "run", DIST, say=silent)
    assert result is not None
    assert "top1" in result.numbers
    assert set(result.summary.files) == {"report", "weights"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    said = capsys.readouterr().err
    assert "warning: the picture `Confusion matrix` could not be drawn: can't measure" in said
    assert said.count("`curves`") == 1
    assert not (tmp_path / "run" / "curves.png").exists()


def test_a_try_leaves_nothing_behind(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = try_recipe(recipe, DIST, say=silent)
    assert report.steps == 2
    assert list(tmp_path.iterdir()) == []
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_where_runs_and_data_lie(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PVTCTL_RUNS", raising=False)
    assert default_out(recipe) == Path("runs/imagenet_pvt_v2-pvt_v2_b0-smoke")
    assert default_out(recipe, "my photos") == Path("runs/imagenet_pvt_v2-pvt_v2_b0-smoke-my_photos")
    monkeypatch.setenv("PVTCTL_RUNS", str(tmp_path))
    assert default_out(recipe).parent == tmp_path
    elsewhere = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"name": "imagenet", "path": "nowhere"})}
    )
    with pytest.raises(UsageError):
        data_place(elsewhere)
