"""What may be compared with the paper, and what may not."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import read_recipe, recipe_names, recipe_path
from pvtctl.runs.paper_table import (
    ComparedFigure,
    compare_with_paper,
    differences_from_paper,
    is_printed_model,
    printed_score,
    result_rows,
)

NUMBERS = {"top1": 0.798, "top5": 0.95, "loss": 0.9, "ece": 0.02, "images": 50_000.0}


def test_the_papers_experiment_is_comparable() -> None:
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small", overrides=["data.path=/data", "train.seed=3"])
    figures, differences = compare_with_paper(recipe, NUMBERS, 1000)
    assert differences == []
    rows = {figure.name: figure for figure in figures}
    assert rows["top1_err"].measured == pytest.approx(20.2)
    assert (rows["top1_err"].paper, rows["top1_err"].comparable) == (20.2, True)
    assert rows["params_m"].measured == pytest.approx(24.486, abs=1e-3)
    assert rows["gmacs"].measured == pytest.approx(3.8, abs=0.05)
    assert printed_score(recipe) == pytest.approx(0.798)


@pytest.mark.parametrize(
    ("profile", "overrides", "images", "classes", "reason"),
    [
        ("mini", [], 512, 12, "data scenes instead of ImageNet"),
        ("paper", ["train.epochs=100"], 50_000, 1000, "train.epochs 100"),
        ("paper", [], 400, 10, "10 classes instead of ImageNet's 1000"),
    ],
)
def test_what_sets_a_run_apart_is_named(
    profile: str, overrides: list[str], images: int, classes: int, reason: str
) -> None:
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small", profile, overrides)
    figures, differences = compare_with_paper(recipe, {**NUMBERS, "images": float(images)}, classes)
    assert any(reason in difference for difference in differences)
    comparable = {figure.name: figure.comparable for figure in figures}
    assert not comparable["top1_err"]
    assert comparable["params_m"], "a property of the model, whatever it is trained on"


def test_no_column_for_a_paper_that_printed_nothing() -> None:
    recipe = load_recipe("finetune_classification")
    figures, differences = compare_with_paper(recipe, NUMBERS, 10)
    assert differences == []
    assert result_rows(figures)[0] == ["figure", "measured"]


MODEL_FIGURES = ("params_m", "gmacs")


def first_rows() -> list[tuple[str, str]]:
    found = []
    for name in recipe_names():
        rows = (row for row in read_recipe(name).rows if load_recipe(name, row).expect)
        found += [(name, row) for row in islice(rows, 1)]
    return found


def figures_of(recipe: Recipe) -> dict[str, ComparedFigure]:
    scores = dict.fromkeys([*NUMBERS, "box_ap", "mask_ap", "miou", "delta1"], 0.5)
    return {figure.name: figure for figure in compare_with_paper(recipe, scores, 12)[0]}


@pytest.mark.parametrize(("name", "row"), first_rows())
def test_figures_are_of_the_rows_model_only(name: str, row: str) -> None:
    for profile in ("paper", "mini", "smoke"):
        recipe = load_recipe(name, row, profile, ["train.seed=4", "model.backbone.drop_path_rate=0.3"])
        assert is_printed_model(recipe)
        for override in ("model.backbone.width=0.4", "model.backbone.name=pvt_v2_b5"):
            other = load_recipe(name, row, profile, [override])
            assert not is_printed_model(other)
            [reason] = [each for each in differences_from_paper(other, {"images": 5.0}, 12) if "instead of" in each][
                -1:
            ]
            assert reason.startswith(other.model.backbone.spec)


@pytest.mark.parametrize("profile", ["paper", "mini"])
@pytest.mark.parametrize("override", ["model.head.name=deeplabv3plus", "model.head.width=32"])
def test_another_head_is_counted_as_it_is_and_not_comparable(profile: str, override: str) -> None:
    theirs = figures_of(load_recipe("ade20k_semantic_fpn", "pvt_v2_b0", profile))
    ours = figures_of(load_recipe("ade20k_semantic_fpn", "pvt_v2_b0", profile, [override]))
    for name in MODEL_FIGURES:
        assert theirs[name].comparable
        assert theirs[name].measured == pytest.approx(theirs[name].paper, rel=0.01)
        assert not ours[name].comparable
        assert ours[name].measured < 0.7 * theirs[name].measured
        assert "not comparable" in ours[name].cells()[-1]


def test_a_default_that_is_stated_is_the_same_model() -> None:
    """As evaluations state what a checkpoint holds; options that no shape shows count too."""
    recipe = load_recipe("ade20k_semantic_fpn", "pvt_v2_b0", overrides=["model.head.width=256"])
    assert is_printed_model(recipe)
    assert not is_printed_model(load_recipe("dpt_nyu", overrides=["model.head.readout=ignore"]))


OWN = """
model.backbone: {name: pvt_tiny}
model.head: {name: semantic_fpn, width: 64}
task: segmentation
data.name: masks
rows: {mine: {title: Mine, expect: {miou: 40, params_m: 7.5}}}
"""


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        ([], ["miou", "params_m"]),
        (["data.path=/data", "train.seed=3"], ["miou", "params_m"]),
        (["model.backbone.drop_path_rate=0.2"], ["miou", "params_m"]),
        (["model.backbone.name=pvt_tiny", "model.head.width=64"], ["miou", "params_m"]),
        (["model.backbone.name=pvt_small"], []),
        (["model.backbone.width=0.5"], []),
        (["model.head.width=128"], []),
        (["model.head={name: dpt}"], []),
        (["model.backbone.name=pvt_small", "expect.miou=44"], ["miou"]),
    ],
)
def test_figures_of_ones_own_are_of_the_model_beside_them(
    tmp_path: Path, overrides: list[str], left: list[str]
) -> None:
    """Also where the recipe of a run, which states all, is read again."""
    (tmp_path / "mine.yaml").write_text(OWN)
    recipe = load_recipe(tmp_path / "mine.yaml", overrides=overrides)
    assert list(recipe.expect) == left
    assert (recipe.title == "Mine") == (len(left) == 2)
    (tmp_path / "flat.yaml").write_text(json.dumps(load_recipe(tmp_path / "mine.yaml").model_dump(mode="json")))
    assert list(load_recipe(tmp_path / "flat.yaml", overrides=overrides).expect) == left


def test_a_file_that_leaves_the_model_to_set_has_figures_of_none(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("expect: {top1_err: 9}\n")
    assert not load_recipe(tmp_path / "mine.yaml", overrides=["model.backbone.name=pvt_tiny"]).expect


def test_a_copy_is_held_to_what_it_was_copied_from(tmp_path: Path) -> None:
    text = recipe_path("imagenet_pvt_v1").read_text(encoding="utf-8")
    copy = tmp_path / "mine.yaml"
    copy.write_text(text)
    recipe = load_recipe(copy, "pvt_small", overrides=["data.path=/data"])
    assert compare_with_paper(recipe, NUMBERS, 1000)[1] == []
    assert (
        "train.epochs 100"
        in differences_from_paper(load_recipe(copy, "pvt_small", overrides=["train.epochs=100"]), NUMBERS, 1000)[0]
    )
    copy.write_text(text.replace("epochs: 300", "epochs: 30"))
    assert "train.epochs 30" in differences_from_paper(load_recipe(copy, "pvt_small"), NUMBERS, 1000)[0]
    assert not is_printed_model(load_recipe(copy, "pvt_small", overrides=["model.backbone.name=pvt_tiny"]))
    copy.write_text("model.backbone.name: pvt_tiny\nrows: {a: {expect: {top1_err: 9}}}\n")
    assert differences_from_paper(load_recipe(copy), NUMBERS, 1000) == []  # figures of the user's own
