"""The studies among the recipes: what each claims is printed, and the printed figures say what the claim says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pvtctl.models.registry import OwnOptions
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Claim, Study
from pvtctl.recipe.source import read_recipe, recipe_names
from pvtctl.runs.paper_table import model_cost
from pvtctl.studies.claims import lower_is_better

STUDIES = (
    "deeper_vs_wider",
    "dpt_backbones",
    "dpt_readout",
    "dpt_resolution",
    "dpt_skip_layers",
    "gcnet",
    "input_scale",
    "pretrained_vs_scratch",
    "pvt_v2_steps",
    "vit_vs_pvt",
)
OWN = ("depth_by_stage", "mlp_ratio", "sra_ratio")
"""Of sizes that no paper compares, so that nothing is printed."""
NOT_PRINTED = {"train_memory_gib", "resolution_loss"}
"""Figures of claims that the papers make without printing a value for each row."""
WITHOUT_SCORE = {("vit_vs_pvt", "vit_small_patch4"), *(("dpt_resolution", row) for row in ("vit_hybrid", "resnet50"))}
WITHOUT_SCORE |= {("dpt_resolution", row) for row in ("deit_base_distilled_patch16", "resnext101_32x8d")}


def study_of(name: str) -> Study:
    study = read_recipe(name).study
    assert study is not None
    return study


CLAIMS = [(name, claim) for name in STUDIES for claim in study_of(name).claims]


def printed(name: str, row: str, figure: str) -> float | None:
    expected = load_recipe(name, row).expect.get(figure)
    return expected.paper if expected is not None else None


def test_ten_studies_and_three_of_our_own() -> None:
    assert sorted(name for name in recipe_names() if read_recipe(name).study is not None) == sorted([*STUDIES, *OWN])


@pytest.mark.parametrize("name", OWN)
def test_our_own_compare_one_option_and_print_nothing(name: str) -> None:
    rows = [load_recipe(name, row, "mini") for row in read_recipe(name).rows]
    assert {row.model.backbone.model_copy(update={"options": OwnOptions()}).spec for row in rows} == {"pvt_tiny@0.25"}
    options = [row.model.backbone.options.said for row in rows]
    assert options[0] == {}
    assert len({key for each in options for key in each}) == 1
    assert len({json.dumps(each) for each in options}) == len(rows)
    assert not any(row.expect or row.paper for row in rows)
    for claim in study_of(name).claims:
        assert not re.search(r"\d\.\d", claim.text)


@pytest.mark.parametrize("name", OWN)
def test_counted_claims_of_our_own_hold_and_the_others_are_left_to_the_data(name: str) -> None:
    counted = [claim for claim in study_of(name).claims if claim.figure in ("gmacs", "params_m")]
    assert counted
    assert any(claim.figure == "top1_acc" for claim in study_of(name).claims)
    for claim in counted:
        better, worse = (model_cost(load_recipe(name, row), 1000)[claim.figure] for row in (claim.better, claim.worse))
        assert better < worse


@pytest.mark.parametrize("name", [*STUDIES, *OWN])
def test_a_study_is_told_in_one_line_and_says_what_mini_can_show(name: str) -> None:
    study = study_of(name)
    assert len(study.claim) <= 110
    assert 2 <= len(study.claims) <= 5
    assert study.scale.count(". ") in (1, 2, 3)
    assert study.scale.endswith(".")
    for claim in study.claims:
        assert claim.text.endswith(".")
        assert len(claim.text) <= 110


@pytest.mark.parametrize("name", STUDIES)
def test_the_score_is_printed_for_every_row(name: str) -> None:
    study = study_of(name)
    without = {(name, row) for row in read_recipe(name).rows if printed(name, row, study.score) is None}
    assert without == {pair for pair in WITHOUT_SCORE if pair[0] == name}


@pytest.mark.parametrize("name", STUDIES)
def test_its_rows_begin_from_a_recipe_of_the_same_profiles(name: str) -> None:
    study = study_of(name)
    assert study.pretraining is not None
    pretraining = read_recipe(study.pretraining)
    assert load_recipe(study.pretraining, next(iter(pretraining.rows))).task == "classification"
    assert set(read_recipe(name).profiles) <= set(pretraining.profiles)


@pytest.mark.parametrize("name", STUDIES)
def test_mini_keeps_the_rows_apart(name: str) -> None:
    """A profile lies over the rows, so that it may take away what sets them apart."""
    runs = [load_recipe(name, row, "mini") for row in read_recipe(name).rows]
    said = {run.model_dump_json(include={"data", "model", "train", "eval"}) for run in runs}
    assert len(said) == len(runs)
    sizes = {run.data.detection.test_short_side for run in runs}
    assert len(sizes) == (2 if name == "input_scale" else 1)
    if name == "input_scale":
        assert min(sizes) / max(sizes) == pytest.approx(640 / 800, abs=0.06)
    for run in runs:  # several sizes, none above the others'
        sides = run.data.detection.short_sides
        assert (len(sides) > 1) == ((run.row or "").endswith("_3x"))
        assert run.task == "depth" or max(sides) == run.data.detection.test_short_side


@pytest.mark.parametrize(("name", "claim"), CLAIMS, ids=lambda value: value if isinstance(value, str) else value.figure)
def test_a_claim_holds_in_the_printed_figures(name: str, claim: Claim) -> None:
    """The text names both figures, and any other decimal in it is their difference."""
    if claim.figure in NOT_PRINTED:
        assert claim.figure not in load_recipe(name, claim.row or claim.better).expect
        return
    assert claim.better is not None
    assert claim.worse is not None
    better, worse = printed(name, claim.better, claim.figure), printed(name, claim.worse, claim.figure)
    assert better is not None
    assert worse is not None
    assert better < worse if lower_is_better(claim.figure) else better > worse
    told = [float(number) for number in re.findall(r"\d+\.\d+", claim.text)]
    assert {better, worse} <= set(told)
    others = [number for number in told if number not in (better, worse)]
    if "misprinted" not in claim.text:
        assert others in ([], [pytest.approx(abs(better - worse))])


def test_the_misprint_is_told_as_the_mean_of_its_columns() -> None:
    claim = study_of("dpt_skip_layers").claims[-1]
    assert claim.better is not None
    expect = load_recipe("dpt_skip_layers", claim.better).expect
    columns = [expect[name].paper or 0 for name in ("hrwsi_rel", "blendedmvs_rel", "redweb_rel")]
    assert f"({sum(columns) / 3:.4f}, misprinted {expect['mean_rel'].paper}," in claim.text


def test_figures_in_words_are_the_printed_ones() -> None:
    """22 % of the operations, 10 M of the parameters."""
    li, b2 = (printed("pvt_v2_steps", row, "gmacs") or 0 for row in ("pvt_v2_b2_li", "pvt_v2_b2"))
    assert round(100 * (1 - li / b2)) == 22
    gc, pvt = (printed("gcnet", row, "params_m") or 0 for row in ("resnet50_gc_r4", "pvt_small"))
    assert round(gc - pvt) == 10


@pytest.mark.parametrize("name", [*STUDIES, *OWN])
def test_the_page_has_a_section_with_every_row_and_its_figures(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    word, study = name.replace("_", "-"), study_of(name)
    section = page.split(f"\n### {word}\n")[1].split("\n## ")[0].split("\n### ")[0]
    assert f"`pvtctl ablate {word}`" in section
    told = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in section.splitlines() if line[:3] == "| `"))
    assert sorted(told) == sorted(read_recipe(name).rows)
    for row in read_recipe(name).rows:
        value = printed(name, row, study.score)
        assert value is None or f"{value:.{4 if study.score == 'mean_rel' else 1}f}" in section
