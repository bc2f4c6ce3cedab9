"""Probes: features in place of a frozen backbone, runs that go on where they were, and the table."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtctl.data.samplers import Draw
from pvtctl.engine import single
from pvtctl.engine.log import silent
from pvtctl.errors import UsageError
from pvtctl.io.stop import Stopped
from pvtctl.models.backbones import build_backbone
from pvtctl.probe import run as probe_run
from pvtctl.probe.cache import FeatureCache
from pvtctl.probe.plan import ProbedBackbone, ProbePlan, check_plan
from pvtctl.probe.run import run_probe
from pvtctl.probe.split import feature_split
from pvtctl.probe.table import cells, collect_probe, document, notes, write_probe
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.runs.load_run import load_run
from pvtctl.tasks.base import TaskSpec
from pvtctl.tasks.from_recipe import build_task

DIST = single("cpu")
RECIPES = {
    "classification": "finetune_classification",
    "detection": "small_objects",
    "segmentation": "small_maps",
    "depth": "small_depth",
}
WIDTHS = {"detection": 16, "segmentation": 16, "depth": 16}
NAMES = ("pvt_v2_b0@0.25", "resnet18@0.125")


def recipe_of(task: str, backbone: str = NAMES[0], *overrides: str) -> Recipe:
    name, _, width = backbone.partition("@")
    said = [f'model.backbone={{"name": "{name}", "width": {width}}}', "train.freeze=[backbone]", "data.train_samples=6"]
    said += ["data.val_samples=3", "train.epochs=2", "train.eval_every=2", "train.total_batch=2"]
    said += ["train.optimizer.layer_decay=1"]
    if task in WIDTHS:
        said += [f"model.head.width={WIDTHS[task]}", "model.init=scratch"]
    return load_recipe(RECIPES[task], None, "smoke", [*said, *overrides])


def plan_of(folder: Path, *recipes: Recipe, seeds: int = 1) -> ProbePlan:
    rows = [ProbedBackbone(recipe, views=2) for recipe in recipes]
    return ProbePlan(rows, folder / "out", seeds, folder / "cache")


@pytest.mark.parametrize("task", RECIPES)
def test_features_stand_for_the_images(tmp_path: Path, task: str) -> None:
    """Losses and predictions of a head are those on the images, up to float16; views are those of the first epochs."""
    built = build_task(recipe_of(task), device="cpu", say=silent)
    model: Any = built.model.eval()
    seen: list[int] = []
    with FeatureCache(tmp_path, 1 << 30).opened("key", lambda: None) as entry:
        told: dict[str, Any] = {"computed": seen.append, "used": seen.append}
        train = feature_split(entry, "train", built.train, model, views=2, **told)
        val = feature_split(entry, "val", built.val, model, views=1, **told)
    assert sum(seen) == 2 * len(built.train) + len(built.val)
    for epoch in (1, 3):
        draws = [Draw(epoch, 1), Draw(epoch, 0)]
        stored = train.collate(train.__getitems__(draws))
        images = built.train.collate(built.train.__getitems__([Draw(1, 1), Draw(1, 0)]))
        assert stored.ids == images.ids
        with torch.no_grad():
            torch.manual_seed(0)
            ours = built.losses(model, stored)["loss"]
            torch.manual_seed(0)
            theirs = built.losses(model, images)["loss"]
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
    stored, images = (split.collate(split.__getitems__([Draw(0, 2)])) for split in (val, built.val))
    metrics = []
    for batch in (stored, images):
        metric = built.metric()
        with torch.no_grad():
            metric.update(built.predict(model, batch), batch)
        metrics.append(metric.compute())
    assert metrics[0].keys() == metrics[1].keys()
    assert metrics[0] == pytest.approx(metrics[1], rel=0.05, abs=0.05, nan_ok=True)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProbePlan, list[str]]:
    """A finished probe of two backbones with two seeds. Read only."""
    plan = plan_of(tmp_path_factory.mktemp("probe"), *(recipe_of("classification", name) for name in NAMES), seeds=2)
    told: list[str] = []
    run_probe(plan, DIST, told.append)
    return plan, told


def weights_of(plan: ProbePlan) -> list[dict[str, torch.Tensor]]:
    folders = [plan.run_folder(row, seed) for row in plan.backbones for seed in range(plan.seeds)]
    return [load_file(folder / "best.safetensors") for folder in folders]


class TestRuns:
    def test_a_run_is_one_that_every_command_reads(self, probed: tuple[ProbePlan, list[str]]) -> None:
        plan, told = probed
        run = plan.run_folder(plan.backbones[0], 1)
        assert load_run(run).model.backbone is not None
        assert not (run / "checkpoints").exists()
        assert any("random weights" in line for line in told)
        first, second, *_ = weights_of(plan)
        backbone = [key for key in first if key.startswith("backbone.")]
        assert all(torch.equal(first[key], second[key]) for key in backbone)
        assert not torch.equal(first["head.weight"], second["head.weight"])

    def test_what_is_finished_is_not_done_again(
        self, probed: tuple[ProbePlan, list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe_run, "build_task", None)
        told: list[str] = []
        run_probe(probed[0], DIST, told.append)
        assert told == ["probe: 2 backbones, 2 seeds each; 2 of 2 done"]

    def test_stopped_twice_it_ends_with_the_same_weights(
        self, probed: tuple[ProbePlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By Ctrl-C while features are computed, then by a time limit while a head is trained."""
        whole = probed[0]
        plan = replace(whole, out=tmp_path / "out", cache=tmp_path / "cache")

        def press(meter: Any, images: int) -> None:
            signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(probe_run._Meter, "seen", press)
            with pytest.raises(Stopped) as caught:
                run_probe(plan, DIST, silent)
        assert caught.value.exit_code == 130
        assert caught.value.hint == "run the same command to continue"
        assert list((tmp_path / "cache").rglob("*.safetensors"))
        hurried = [ProbedBackbone(_with_limit(row.recipe), row.views) for row in plan.backbones]
        with pytest.raises(Stopped):
            run_probe(replace(plan, backbones=hurried), DIST, silent)
        assert list((tmp_path / "out").rglob("*.pt"))
        run_probe(plan, DIST, silent)
        for ours, theirs in zip(weights_of(plan), weights_of(whole), strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    def test_damaged_features_are_computed_again(
        self, probed: tuple[ProbePlan, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = probed[0]
        shards = list(whole.cache.rglob("*.safetensors"))
        before = {path: path.read_bytes() for path in shards}
        shards[0].write_bytes(before[shards[0]][:-5])
        plan = replace(whole, out=tmp_path / "out", backbones=whole.backbones, seeds=1)
        computed: list[int] = []
        write = probe_run.feature_split.__globals__["_write"]

        def counted(*arguments: Any) -> Path:
            computed.append(arguments[2])
            path: Path = write(*arguments)
            return path

        monkeypatch.setitem(probe_run.feature_split.__globals__, "_write", counted)
        run_probe(plan, DIST, silent)
        assert len(computed) == 1
        assert {path: path.read_bytes() for path in shards} == before
        theirs = load_file(whole.run_folder(whole.backbones[0], 0) / "best.safetensors")
        assert all(torch.equal(value, theirs[key]) for key, value in weights_of(plan)[0].items())

    @pytest.mark.parametrize("task", ["classification", "depth"])
    def test_weights_of_another_model_are_refused_before_the_first_is_probed(self, tmp_path: Path, task: str) -> None:
        save_file(build_backbone("resnet18@0.25").state_dict(), tmp_path / "other.safetensors")
        weights = [
            f"model.weights={tmp_path / 'other.safetensors'}",
            *(["model.init=pretrained"] if task in WIDTHS else []),
        ]
        wrong = recipe_of(task, NAMES[1], *weights)
        plan = plan_of(tmp_path, recipe_of(task), wrong)
        with pytest.raises(UsageError, match=r"resnet18@0\.25"):
            run_probe(plan, DIST, silent)
        assert not plan.out.exists()
        assert not plan.cache.exists()

    @pytest.mark.parametrize("task", RECIPES)
    def test_weights_that_fit_pass(self, tmp_path: Path, task: str) -> None:
        save_file(build_backbone(NAMES[1]).state_dict(), tmp_path / "own.safetensors")
        weights = [
            f"model.weights={tmp_path / 'own.safetensors'}",
            *(["model.init=pretrained"] if task in WIDTHS else []),
        ]
        probe_run._check_models([ProbedBackbone(recipe_of(task, NAMES[1], *weights), views=2)])

    def test_a_row_of_other_data_is_not_continued(self, probed: tuple[ProbePlan, list[str]], tmp_path: Path) -> None:
        plan = replace(probed[0], out=tmp_path / "out", seeds=1)
        with pytest.raises(Stopped):
            run_probe(replace(plan, backbones=[ProbedBackbone(_with_limit(plan.backbones[0].recipe), 2)]), DIST, silent)
        file = plan.run_folder(plan.backbones[0], 0) / "run.json"
        info = json.loads(file.read_text())
        info["probe"]["data"]["train"] = "other"
        file.write_text(json.dumps(info))
        with pytest.raises(UsageError, match="the data of the run in"):
            run_probe(plan, DIST, silent)


def _with_limit(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_minutes": 1e-9})})


class TestTable:
    def test_rows_are_ranked_within_their_protocol(self, probed: tuple[ProbePlan, list[str]], tmp_path: Path) -> None:
        plan = replace(probed[0], out=tmp_path / "out", seeds=1)
        longer = ProbedBackbone(recipe_of("classification", NAMES[0], "train.epochs=3", "train.eval_every=3"), 2)
        run_probe(replace(plan, backbones=[*plan.backbones, longer]), DIST, silent)
        table = collect_probe(plan.out, seconds=None, device="cpu", say=silent)
        assert [len(group) for group in table.groups] in ([2, 1], [1, 2])
        scores = {row.name: row.score for row in max(table.groups, key=len)}
        ranks = [(line[0], line[1]) for line in cells(table)]
        assert sorted(rank for rank, _ in ranks) == ["-", "1", "2"]
        assert next(name for rank, name in ranks if rank == "1") == max(scores, key=lambda name: scores[name])
        assert "rows of different protocols or data are not ranked together" in notes(table)
        assert len(document(table)["protocols"]) == 2

    def test_scores_have_the_decimals_of_their_figure(
        self, probed: tuple[ProbePlan, list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(TaskSpec, "digits_of", lambda spec, figure: 4)
        table = collect_probe(probed[0].out, seconds=None, device="cpu", say=silent)
        assert [line[3] for line in cells(table)] == [f"{row.score:.4f}" for row in table.rows]

    @pytest.mark.draws
    def test_files(self, probed: tuple[ProbePlan, list[str]], tmp_path: Path) -> None:
        table = collect_probe(probed[0].out, seconds=None, device="cpu", say=silent)
        assert all(len(row.scores) == 2 and row.spread is not None for row in table.rows)
        files = write_probe(tmp_path, table)
        assert set(files) == {"md", "csv", "json", "scatter.png", "scatter.svg"}
        said = json.loads(files["json"].read_text())
        assert [row["rank"] for row in said["rows"]] == [1, 2]
        assert all(row["weights"] == "random" and len(row["scores"]) == 2 for row in said["rows"])
        assert files["md"].read_text().count("\n| ") == 4  # headings, the line below them, two rows
        assert any(note.startswith("random weights: ") for note in said["notes"])
        assert any("2 views of each training image" in note for note in said["notes"])

    def test_a_broken_row_is_left_out(self, probed: tuple[ProbePlan, list[str]], tmp_path: Path) -> None:
        import shutil

        shutil.copytree(probed[0].out, tmp_path / "out")
        first = probed[0].run_folder(probed[0].backbones[0], 0).relative_to(probed[0].out)
        (tmp_path / "out" / first / "run.json").write_text("{")
        table = collect_probe(tmp_path / "out", seconds=None, device="cpu", say=silent)
        assert len(table.rows) == 1
        assert len(table.problems) == 1


@pytest.mark.parametrize(
    "setting", ["eval.flip=true", "eval.ratios=[0.5, 1.0]", "eval.window=[64, 64]", "train.ema.enabled=true"]
)
def test_settings_of_other_views_are_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UsageError, match=f"{setting.partition('=')[0]} is not for a probe"):
        check_plan(plan_of(tmp_path, recipe_of("segmentation", NAMES[0], setting)))


def test_a_head_whose_features_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_task(recipe_of("segmentation"), device="cpu", say=silent)
    model: Any = built.model.eval()
    read: Callable[..., Any] = model.read_padded
    monkeypatch.setattr(model, "read_padded", lambda images: (read(images), "words"))
    told: dict[str, Any] = {"computed": silent, "used": silent}
    with (
        FeatureCache(tmp_path, 1 << 30).opened("key", lambda: None) as entry,
        pytest.raises(UsageError, match="cannot be kept"),
    ):
        feature_split(entry, "train", built.train, model, views=1, **told)


def test_unreadable_images_are_passed_over_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_task(recipe_of("segmentation"), device="cpu", say=silent)
    from pvtctl.data.images import BadImage

    load = type(built.val).load

    def broken(self: Any, draw: Draw, index: int) -> Any:
        if index == 1:
            raise BadImage("cut short")
        return load(self, draw, index)

    monkeypatch.setattr(type(built.val), "load", broken)
    told: dict[str, Any] = {"computed": silent, "used": silent}
    with FeatureCache(tmp_path, 1 << 30).opened("key", lambda: None) as entry:
        train = feature_split(entry, "train", built.train, built.model.eval(), views=1, **told)
        val = feature_split(entry, "val", built.val, built.model.eval(), views=1, **told)
    for stored, images in ((train, built.train), (val, built.val)):
        draws = [Draw(0, 0), Draw(0, 1)]
        ours, theirs = (split.collate(split.__getitems__(draws)) for split in (stored, images))
        assert (ours.ids, ours.skipped, ours.failed) == (theirs.ids, theirs.skipped, theirs.failed)
