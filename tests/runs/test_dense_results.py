"""Segmentation and depth beside the papers: what may be compared, on what data, and what figures are called."""

from __future__ import annotations

import pytest

from pvtctl.recipe.load import load_recipe
from pvtctl.runs.paper_table import (
    compare_with_paper,
    differences_from_paper,
    label_of,
    original_data,
    paper_label,
    printed_score,
)
from pvtctl.tasks.registry import spec_of

SCORES = {"miou": 0.398, "pixel_acc": 0.8, "mean_acc": 0.5, "boundary_f": 0.3, "pixels": 1e9}
DEPTHS = {"delta1": 0.904, "delta2": 0.988, "delta3": 0.998, "abs_rel": 0.11, "rmse": 0.357, "log10": 0.045}


def test_the_papers_segmentation_is_comparable() -> None:
    free = ["data.path=/data", "train.batch_size=2", "eval.batch_size=4", "train.precision=bf16"]
    recipe = load_recipe("ade20k_semantic_fpn", "pvt_small", overrides=free)
    figures, differences = compare_with_paper(recipe, {**SCORES, "images": 2000.0}, 150)
    assert differences == []
    rows = {figure.name: figure for figure in figures}
    assert (rows["miou"].label, rows["miou"].measured, rows["miou"].paper) == ("mIoU, %", pytest.approx(39.8), 39.8)
    assert (rows["miou"].code, rows["miou"].comparable) == (41.9, True)
    assert rows["params_m"].measured == pytest.approx(28.2, abs=0.05)
    assert rows["gmacs"].measured == pytest.approx(44.5, abs=0.05)
    assert rows["pixel_acc"].measured == pytest.approx(80)
    assert printed_score(recipe) == pytest.approx(0.398)
    assert "pixels" not in rows


def test_the_papers_depth_is_comparable() -> None:
    recipe = load_recipe("dpt_nyu", "vit_hybrid")
    figures, differences = compare_with_paper(recipe, {**DEPTHS, "images": 654.0}, 0)
    assert differences == []
    rows = {figure.name: figure for figure in figures}
    assert (rows["abs_rel"].label, rows["abs_rel"].measured, rows["abs_rel"].paper) == ("AbsRel", 0.11, 0.11)
    assert rows["delta1"].cells()[1] == "0.904", "three digits, as printed"
    assert printed_score(recipe) == pytest.approx(0.904)


@pytest.mark.parametrize(
    ("name", "row", "profile", "overrides", "images", "classes", "reason"),
    [
        ("ade20k_semantic_fpn", "pvt_small", "mini", [], 120, 15, "data scenes instead of ADE20K"),
        ("ade20k_semantic_fpn", "pvt_small", "mini", [], 120, 15, "profile mini"),
        ("ade20k_semantic_fpn", "pvt_small", "paper", [], 2000, 15, "15 classes instead of ADE20K's 150"),
        ("ade20k_semantic_fpn", "pvt_small", "paper", [], 3, 150, "3 validation images instead of ADE20K's 2 000"),
        ("ade20k_semantic_fpn", "pvt_small", "paper", ["data.name=masks"], 2000, 150, "data masks instead of ADE20K"),
        ("ade20k_semantic_fpn", "pvt_small", "paper", ["eval.flip=true"], 2000, 150, "changed: eval.flip True"),
        ("dpt_pascal_context", "vit_hybrid", "paper", [], 5105, 59, "59 classes instead of Pascal Context's 60"),
        ("dpt_nyu", "vit_hybrid", "paper", ["eval.alignment=median"], 654, 0, "changed: eval.alignment median"),
        ("dpt_nyu", "vit_hybrid", "paper", ["eval.crop=none"], 654, 0, "changed: eval.crop none"),
        ("dpt_kitti", "vit_hybrid", "paper", ["data.name=depth"], 652, 0, "data depth instead of KITTI"),
        ("dpt_kitti", "vit_hybrid", "paper", [], 12, 0, "12 validation images instead of KITTI's 652"),
    ],
)
def test_what_sets_a_run_apart_is_named(
    name: str, row: str, profile: str, overrides: list[str], images: int, classes: int, reason: str
) -> None:
    recipe = load_recipe(name, row, profile, overrides)
    found = differences_from_paper(recipe, {"images": float(images)}, classes)
    assert any(reason in each for each in found)


def test_other_places_of_the_same_data_are_no_difference() -> None:
    own = ["data.depth.split_file=/lists/eigen.txt", "data.depth.train_split_file=/lists/train.txt", "data.path=/kitti"]
    assert differences_from_paper(load_recipe("dpt_kitti", "vit_hybrid", "paper", own), {"images": 652.0}, 0) == []


@pytest.mark.parametrize(
    ("name", "row", "data", "size", "paper"),
    [
        ("ade20k_semantic_fpn", "pvt_small", "ade20k", (512, 512), "PVT v1, Table 5"),
        ("ade20k_semantic_fpn", "pvt_v2_b0", "ade20k", (512, 512), "PVT v2, Table 5"),
        ("dpt_ade20k", "vit_hybrid", "ade20k", (480, 480), "DPT, Table 4"),
        ("dpt_pascal_context", "vit_hybrid", "pascal_context", (480, 480), "DPT, Table 5"),
        ("dpt_nyu", "vit_hybrid", "nyu", (480, 640), "DPT, Table 2"),
        ("dpt_kitti", "vit_hybrid", "kitti", (352, 1216), "DPT, Table 3"),
        ("dpt_depth_mix", "vit_hybrid", "mix", (384, 384), "DPT, Table 1"),
    ],
)
def test_what_a_recipe_is_scored_and_counted_on(
    name: str, row: str, data: str, size: tuple[int, int], paper: str
) -> None:
    recipe = load_recipe(name, row)
    assert (original_data(recipe), spec_of(recipe).sizes(recipe).counted, paper_label(recipe)) == (data, size, paper)
    assert original_data(load_recipe(name, row, "mini")) == data, "whatever the profile reads"


def test_labels_say_units_sizes_and_classes() -> None:
    ade = load_recipe("ade20k_semantic_fpn", "pvt_small")
    assert label_of("params_m", ade) == "parameters, M (150 classes)"
    assert label_of("gmacs", ade) == "multiply-adds, G (512x512)"
    assert label_of("boundary_f", ade) == "boundary F-score, %"
    nyu = load_recipe("dpt_nyu", "vit_hybrid")
    assert label_of("params_m", nyu) == "parameters, M"
    assert label_of("gmacs", nyu) == "multiply-adds, G (480x640)"
    assert label_of("rmse", nyu) == "RMSE, m"
    assert label_of("tum_d125", load_recipe("dpt_depth_mix", "vit_hybrid")) == "delta > 1.25 on TUM, %"
    own = load_recipe("small_depth")
    assert label_of("time_ms", own) == "latency, ms"
    assert label_of("novel", own) == "novel"


def test_no_columns_for_a_recipe_that_prints_nothing() -> None:
    recipe = load_recipe("small_depth")
    figures, differences = compare_with_paper(recipe, {**DEPTHS, "images": 6.0, "whdr": 0.25}, 0)
    assert differences == []
    assert all(figure.paper is None for figure in figures)
    named = {figure.name: figure.measured for figure in figures}
    assert named["whdr"] == 25
    assert named["params_m"] is not None


@pytest.mark.parametrize("name", ["dpt_depth_mix", "dpt_resolution"])
def test_a_paper_without_the_main_score_has_none(name: str) -> None:
    assert printed_score(load_recipe(name, "vit_hybrid")) is None
