"""What may be compared with the paper, and what may not."""

from __future__ import annotations

import pytest

from pvtctl.recipe.load import load_recipe
from pvtctl.runs.paper_table import compare_with_paper, printed_score, result_rows

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
