"""Runs of versions that had fewer settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pvtctl.engine.run import check_recipe
from pvtctl.errors import UsageError
from pvtctl.recipe.earlier import EARLIER, as_begun, with_earlier
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import Recipe

RECIPES = ["imagenet_pvt_v2", "small_objects", "small_maps", "small_depth"]


def _recipe(name: str, *overrides: str) -> Recipe:
    row = "pvt_v2_b0" if name == "imagenet_pvt_v2" else None
    return load_recipe(name, row, overrides=overrides)


def _of_before(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a version without the settings of EARLIER wrote it."""
    flat = recipe.plain_values()
    for *blocks, key in EARLIER:
        block = flat
        for name in blocks:
            block = block[name]
        del block[key]
    return flat


def _folder(path: Path, flat: dict[str, Any]) -> Path:
    (path / "run.json").write_text("{}")
    (path / "recipe.yaml").write_text(yaml.safe_dump(flat, sort_keys=False))
    return path / "recipe.yaml"


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_before_goes_on_as_it_began(name: str, tmp_path: Path) -> None:
    recipe = _recipe(name)
    began = with_earlier(_of_before(recipe))
    now = as_begun(recipe, began)
    assert (now.data.exif, now.data.grey_range) == ("ignore", (0.0, 65535.0))
    assert now.data.detection.resize == "antialias"
    check_recipe(began, now.plain_values(), tmp_path)
    assert load_recipe(_folder(tmp_path, _of_before(recipe))).data == now.data


def test_a_run_that_was_scored_by_faster_coco_eval_goes_on(tmp_path: Path) -> None:
    """Its name, which is gone, is read as auto, in recipes and in runs; all implementations give the same numbers."""
    recipe = _recipe("small_objects", "eval.backend=faster")
    assert recipe.eval.backend == "auto"
    flat = recipe.plain_values()
    began = {**flat, "eval": {**flat["eval"], "backend": "faster"}}
    assert load_recipe(_folder(tmp_path, began)).eval == recipe.eval
    check_recipe(began, flat, tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_of_today_is_left_alone(name: str, tmp_path: Path) -> None:
    recipe = _recipe(name)
    flat = recipe.plain_values()
    assert with_earlier(flat) == flat
    assert as_begun(recipe, flat) == recipe
    assert load_recipe(_folder(tmp_path, flat)).data == recipe.data


@pytest.mark.parametrize(
    ("key", "value", "before"),
    [("data.exif", "apply", "ignore"), ("data.detection.resize", "bilinear", "antialias")],  # the latter is the default
)
def test_what_is_stated_is_not_taken_back(key: str, value: str, before: str, tmp_path: Path) -> None:
    recipe = _recipe("small_objects", f"{key}={value}")
    began = with_earlier(_of_before(recipe))
    now = as_begun(recipe, began)
    with pytest.raises(UsageError, match=rf"{key} was '{before}', is '{value}'"):
        check_recipe(began, now.plain_values(), tmp_path)


def test_null_states_nothing() -> None:
    recipe = _recipe("small_objects", "data.exif=null")
    assert as_begun(recipe, with_earlier(_of_before(recipe))).data.exif == "ignore"


def test_other_recipe_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(_of_before(_recipe("small_objects"))))
    assert load_recipe(path).data.exif is None


@pytest.mark.parametrize("before", ["imagenet", "half"])
def test_a_run_goes_on_with_its_pixels(before: str, tmp_path: Path) -> None:
    """Earlier recipes always stated them; those of the weights are taken by new runs alone."""
    recipe = _recipe("small_photos")
    flat = recipe.plain_values()
    began = {**flat, "data": {**flat["data"], "normalization": before}}
    assert as_begun(recipe, began).data.normalization == before
    check_recipe(began, as_begun(recipe, began).plain_values(), tmp_path)
    assert as_begun(recipe, flat).data.normalization is None
    stated = _recipe("small_photos", "data.normalization=clip")
    with pytest.raises(UsageError, match=f"data.normalization was '{before}', is 'clip'"):
        check_recipe(began, as_begun(stated, began).plain_values(), tmp_path)
