"""What a study consists of, from its recipe, the options and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pvtctl.errors import UsageError
from pvtctl.recipe.source import recipe_path
from pvtctl.studies.plan import StudyRequest, read_study, study_names

OURS = """
task: classification
data: {name: scenes}
model.backbone: {name: pvt_tiny}
rows:
  one: {train.epochs: 1}
  two: {train.epochs: 2}
"""


def test_runs_come_after_what_they_need(tmp_path: Path) -> None:
    plan = StudyRequest("pretrained-vs-scratch", tmp_path, profile="smoke", seeds=2).plan()
    names = [run.name for run in plan.runs]
    assert len(set(names)) == len(names)
    assert len({run.out for run in plan.runs}) == len(names)
    for run in plan.runs:
        if run.needs:
            assert names.index(run.needs) < names.index(run.name)


def test_one_pretraining_feeds_every_row_of_its_backbone(tmp_path: Path) -> None:
    plan = StudyRequest("pretrained-vs-scratch", tmp_path, profile="smoke", seeds=2).plan()
    pretrainings = [run for run in plan.runs if run.kind == "pretraining"]
    assert len(pretrainings) == 2  # PVT-Small and ResNet50, for four of the six rows, twice
    assert all(run.needs is None for run in plan.row_runs("pvt_small_scratch_1x"))
    feeds = {run.needs for run in plan.row_runs("pvt_small_pretrained_3x")}
    assert feeds == {run.needs for run in plan.row_runs("pvt_small_pretrained_1x")} != {None}


def test_studies_share_pretrainings(tmp_path: Path) -> None:
    ours, theirs = (StudyRequest(name, tmp_path, profile="smoke").plan() for name in ("vit-vs-pvt", "gcnet"))
    first, second = ({run.name for run in plan.runs if run.kind == "pretraining"} for plan in (ours, theirs))
    shared = first & second
    assert len(shared) == 1
    [name] = shared
    assert ours.find(name) == theirs.find(name)


def test_a_backbone_of_no_row_is_pretrained_like_the_others(tmp_path: Path) -> None:
    plan = StudyRequest("vit-vs-pvt", tmp_path, profile="mini").plan()
    trained = {run.recipe.model.backbone.name: run.recipe for run in plan.runs if run.kind == "pretraining"}
    assert set(trained) == {"vit_small_patch32", "pvt_small"}
    first, *others = trained.values()
    for other in others:  # equal budgets
        assert other.train == first.train
        assert other.data == first.data
    rows = {run.recipe.model.backbone.name: run.recipe.model.backbone.width for run in plan.runs if run.kind == "row"}
    assert {name: recipe.model.backbone.width for name, recipe in trained.items()} == rows
    assert trained["vit_small_patch32"].row is None
    assert not trained["vit_small_patch32"].expect


def test_seeds_differ_in_nothing_else(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", rows=["pvt_small"], seeds=3).plan()
    runs = plan.row_runs("pvt_small")
    assert [run.seed for run in runs] == [0, 1, 2]
    plain = [run.recipe.model_copy(update={"train": run.recipe.train.model_copy(update={"seed": 0})}) for run in runs]
    assert plain[0] == plain[1] == plain[2]


def test_all_rows_run_once_before_any_runs_again(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", seeds=2).plan()
    rows = [run.row for run in plan.runs if run.kind == "row"]
    assert rows == [*plan.rows, *plan.rows]


def test_picked_rows_keep_the_tables_order(tmp_path: Path) -> None:
    plan = StudyRequest("vit-vs-pvt", tmp_path, profile="smoke", rows=["pvt_small", "vit_small_patch4"]).plan()
    assert plan.picked == ("vit_small_patch4", "pvt_small")
    assert len(plan.rows) == 3


def test_rows_that_mini_leaves_out_run_where_they_are_named(tmp_path: Path) -> None:
    plan = StudyRequest("vit-vs-pvt", tmp_path, profile="mini").plan()
    assert plan.about is not None
    assert set(plan.rows) - set(plan.picked) == set(plan.about.left_out) == {"vit_small_patch4"}
    assert StudyRequest("vit-vs-pvt", tmp_path, profile="mini", rows=["vit_small_patch4"]).plan().picked == (
        "vit_small_patch4",
    )
    assert StudyRequest("vit-vs-pvt", tmp_path, profile="paper").plan().picked == plan.rows


def test_given_weights_need_no_pretraining(tmp_path: Path) -> None:
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", weights={"pvt_small": "mine.pth"}).plan()
    [run] = plan.row_runs("pvt_small")
    assert run.needs is None
    assert run.recipe.model.weights == "mine.pth"


def test_given_weights_that_are_a_part_of_a_file_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.pth").touch()
    plan = StudyRequest("gcnet", tmp_path, profile="smoke", weights={"pvt_small": "mine.pth#teacher"}).plan()
    assert plan.row_runs("pvt_small")[0].recipe.model.weights == f"{tmp_path}/mine.pth#teacher"


def test_at_the_papers_scale_published_weights_are_taken(tmp_path: Path) -> None:
    plan = StudyRequest("deeper-vs-wider", tmp_path, profile="paper").plan()
    kinds = {run.recipe.model.backbone.name: run.kind for run in plan.runs if run.kind == "pretraining"}
    assert set(kinds) == {"pvt_small_wide"}  # nobody has published it
    everything = StudyRequest("deeper-vs-wider", tmp_path, profile="paper", pretrain=True).plan()
    assert len(everything.runs) == 4


def test_settings_reach_rows_and_pretrainings_apart(tmp_path: Path) -> None:
    plan = StudyRequest(
        "gcnet",
        tmp_path,
        profile="smoke",
        overrides=["train.clip_grad=7"],
        pretraining_overrides=["train.clip_grad=5"],
    ).plan()
    assert {run.kind: run.recipe.train.clip_grad for run in plan.runs} == {"row": 7.0, "pretraining": 5.0}


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(OURS)
    plan = StudyRequest(str(file), tmp_path, profile="paper").plan()
    assert [run.recipe.train.epochs for run in plan.runs] == [1, 2]
    assert plan.about is None
    assert plan.seeds == 1


def test_a_changed_copy_of_a_shipped_study_is_what_runs(tmp_path: Path) -> None:
    file = tmp_path / "gcnet.yaml"
    document = yaml.safe_load(recipe_path("gcnet").read_text("utf-8"))
    document["rows"]["pvt_small"]["train.epochs"] = 5
    file.write_text(yaml.safe_dump(document))
    plan = StudyRequest(str(file), tmp_path, profile="paper", rows=["pvt_small"]).plan()
    assert plan.row_runs("pvt_small")[0].recipe.train.epochs == 5


def test_names_are_the_recipes() -> None:
    for name in study_names():
        assert "_" not in name
        assert read_study(name).name == name.replace("-", "_")
    assert read_study("vit_vs_pvt") == read_study("vit-vs-pvt")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("vit-vs-pvtt", {}, "there is no study"),
        ("small-photos", {}, "has no rows"),
        ("gcnet", {"rows": ["pvt_smal"]}, "has no row 'pvt_smal'"),
        ("gcnet", {"weights": {"pvt_big": "x.pth"}}, "has no row 'pvt_big'"),
        ("gcnet", {"seeds": 0}, "out of range"),
        ("gcnet", {"profile": "minni"}, "has no profile 'minni'"),
        ("gcnet", {"overrides": ["train.epoch=3"]}, "train.epoch"),
        ("gcnet", {"pretraining_overrides": ["train.epoch=3"]}, "train.epoch"),
        ("nowhere/mine.yaml", {}, "there is no recipe file"),
    ],
)
def test_bad_input_is_told(tmp_path: Path, name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        StudyRequest(name, tmp_path, **{"profile": "smoke", **options}).plan()  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_unknown_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no run"):
        StudyRequest("gcnet", tmp_path, profile="smoke").plan().find("pvt_small/seed9")
