"""What trains a backbone that stands in no table: the recipe that is found for it, with the backbone's own settings."""

from __future__ import annotations

import pytest

from pvtctl.cli._resolve_recipe import DataChoice, choose_recipe
from pvtctl.recipe.schema import Recipe


def recipe_for(backbone: str, task: str, head: str) -> Recipe:
    recipe = choose_recipe(
        DataChoice("scenes"), backbone=backbone, recipe=None, profile="smoke", task=task, head=head, overrides=[]
    )
    assert recipe.row is None
    return recipe


@pytest.mark.parametrize(
    ("backbone", "task", "head", "size"),
    [
        ("vit_base_patch16", "depth", "dpt", 384),
        ("vit_base_patch16", "segmentation", "semantic_fpn", 384),
        ("deit_small_patch16", "segmentation", "dpt", 384),
        ("vit_small_patch32", "segmentation", "semantic_fpn", None),
        ("pvt_tiny", "depth", "dpt", None),
    ],
)
def test_position_tables_are_those_of_the_weights_that_dpt_starts_from(
    backbone: str, task: str, head: str, size: int | None
) -> None:
    assert recipe_for(backbone, task, head).model.backbone.image_size == size


@pytest.mark.parametrize("backbone", ["deit_small_patch16", "pvt_tiny"])
def test_pixels_are_left_to_the_backbones_weights(backbone: str) -> None:
    assert recipe_for(backbone, "depth", "dpt").data.normalization is None


@pytest.mark.parametrize(
    ("backbone", "width"), [("vit_hybrid", 0.25), ("pvt_small", 0.25), ("vit_hybrid@1", 1.0), ("timm:resnet18", 1.0)]
)
def test_a_profiles_width_holds_for_backbones_of_no_row_too(backbone: str, width: float) -> None:
    recipe = choose_recipe(DataChoice("scenes"), backbone=backbone, recipe=None, profile="mini", task="classification")
    assert recipe.model.backbone.width == width
