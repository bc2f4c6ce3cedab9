"""Recipes of users: what they state stands above what they inherit, and rules of a named data set stay with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvtctl.recipe.layers import NAMED_SETS, RULES_OF_DATA, TEST_SIZES
from pvtctl.recipe.load import find_profile, flat, load_recipe, resolve
from pvtctl.recipe.scale import changes_line, profile_changes
from pvtctl.recipe.source import read_recipe, recipe_names

STATED = {"data.path": "/somewhere", "data.train_samples": 7, "train.total_batch": 6, "train.seed": 5}
DEPTH = {"data": {"name": "depth", "path": "/rooms"}}


def written(folder: Path, base: str, **values: Any) -> Path:
    import yaml

    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"base": base, **values}))
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_built_in_recipe_is_scaled_as_written_and_yields_to_a_file_above(name: str, tmp_path: Path) -> None:
    source = read_recipe(name)
    rows = [None, *source.rows]
    for profile, scales in source.profiles.items():
        for row in rows:
            own_row = [source.rows[row]] if row else []
            scaled = [source.scaled_rows[profile, row]] if row and (profile, row) in source.scaled_rows else []
            assert source.layers(profile, row) == [*source.shared, *own_row, *scales, *scaled]
    backbone = {"name": "vit_hybrid" if "dpt" in name else "pvt_v2_b0"}
    own = written(tmp_path, name, **STATED, **{"model.backbone": backbone})
    full = load_recipe(own)
    for profile in source.profiles:
        values = flat(load_recipe(own, profile=profile))
        assert {key: values[key] for key in STATED} == STATED
        assert values["data.name"] == full.data.name  # the data set that the folder was named for
        assert values["model.backbone.name"] == backbone["name"]


def test_the_users_data_stands_above_an_inherited_profile(tmp_path: Path) -> None:
    own = written(tmp_path, "small_objects", data={"name": "coco", "path": "/mine"}, rows={"a": {"train.seed": 1}})
    recipe = load_recipe(own, "a", "mini")
    assert (recipe.data.name, recipe.data.path) == ("coco", "/mine")
    assert recipe.train.epochs == load_recipe("small_objects", profile="mini").train.epochs  # the rest is inherited
    assert recipe.data.train_samples == 300
    changes = profile_changes(own, "a", "mini")
    assert changes["data.train_samples"] == (None, 300)
    assert "data.name" not in changes
    assert "data.image_size" not in changes  # coco does not read it
    assert "profile mini changes" in changes_line("mini", changes)
    assert "data.train_samples from all to 300" in changes_line("mini", changes)
    assert changes_line("paper", profile_changes(own, "a", "paper")) == ""
    assert find_profile(str(own), "coco") == "paper"


def test_a_profile_of_the_file_itself_stands_above_it(tmp_path: Path) -> None:
    data = {"name": "coco", "path": "/mine", "train_samples": 50}
    own = written(tmp_path, "small_objects", data=data, profiles={"mini": {"data.train_samples": 5}})
    assert load_recipe(own, profile="mini").data.train_samples == 5
    assert load_recipe(own).data.train_samples == 50
    above = tmp_path / "above.yaml"
    above.write_text("base: own\ndata.train_samples: 9\n")
    assert load_recipe(above, profile="mini").data.train_samples == 9
    assert load_recipe(above, profile="mini").data.path == "/mine"


@pytest.mark.parametrize("key", ["data.path", "data.val_annotations"])
def test_a_place_on_the_command_line_is_used_at_any_scale(key: str) -> None:
    recipe = load_recipe("gcnet", "pvt_small", "mini", [f"{key}=/mine"])
    assert recipe.data.name == "coco"
    assert recipe.data.train_samples == load_recipe("gcnet", "pvt_small", "mini").data.train_samples
    stated = load_recipe("gcnet", "pvt_small", "mini", ["data.path=/mine", "data.name=scenes"])
    assert stated.data.name == "scenes"
    assert load_recipe("gcnet", "pvt_small", "mini", ["data.path=null"]).data.name == "scenes"


OTHERS = {"depth": "depth", "segmentation": "masks"}
NAMED = [
    name
    for name in recipe_names()
    if load_recipe(name, next(iter(read_recipe(name).rows), None)).data.name in NAMED_SETS
]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("profile", ["paper", "mini"])
def test_rules_of_a_named_set_are_its_own(name: str, profile: str) -> None:
    row = next(iter(read_recipe(name).rows), None)
    theirs = load_recipe(name, row, profile)
    full = load_recipe(name, row)
    again = resolve(name, row, profile, [("data.name", full.data.name)])
    assert again.left_out == {}
    settings = [("data.name", OTHERS[theirs.task]), ("data.path", "/mine")]
    resolved = resolve(name, row, profile, settings, scoring=True)
    ours, before, default = flat(resolved.recipe), flat(theirs), flat(load_recipe("small_photos"))
    said = {path for layers in read_recipe(name).profiles[profile] for path in layers.values}
    for path in (*RULES_OF_DATA, *TEST_SIZES):
        key = ".".join(path)
        if key in ours:
            assert ours[key] == (before[key] if path in said else default[key]), key
    trained = flat(load_recipe(name, row, profile, settings))
    for path in TEST_SIZES:  # in training they belong to the training size
        assert trained[".".join(path)] == before[".".join(path)]


def test_what_a_user_states_of_scoring_remains(tmp_path: Path) -> None:
    own = written(tmp_path, "dpt_nyu", eval={"crop": "garg"}, **DEPTH, **{"model.backbone.name": "vit_hybrid"})
    resolved = resolve(own, overrides=["eval.max_depth=20"])
    recipe = resolved.recipe
    assert (recipe.eval.crop, recipe.eval.max_depth, recipe.eval.alignment) == ("garg", 20, "auto")
    assert recipe.data.depth.max_depth is None
    assert resolved.data_set == "nyu"
    assert set(resolved.left_out) == {"eval.alignment", "data.depth.min_depth", "data.depth.max_depth"}
    by_set = load_recipe("dpt_nyu", overrides=["data.name=depth", "eval.crop=eigen"])
    assert (by_set.eval.crop, by_set.eval.max_depth) == ("eigen", None)


def test_rules_of_layouts_are_no_rules(tmp_path: Path) -> None:
    """`depth` and `scenes` are anyone's data: their recipes' caps are settings of the experiment."""
    assert load_recipe("small_depth", overrides=["data.name=nyu"]).data.depth.max_depth == 10
    assert load_recipe("dpt_nyu", profile="mini").eval.max_depth == 10
