"""Flat recipes of runs that were made when `model.head` was one block of all heads' keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pvtctl.recipe.load import dump, flat, load_recipe

OLD = {
    "num_queries": 100,
    "rois_per_image": 512,
    **dict.fromkeys(("dropout", "embed_dim", "depth", "num_heads", "width", "projection", "auxiliary_weight")),
    **dict.fromkeys(("readout", "taps", "scale_shift")),
}
"""Every key of that block with its default."""


@pytest.mark.parametrize(
    ("name", "row"), [("coco_retinanet_1x", "pvt_tiny"), ("coco_detr_50e", "pvt_small"), ("dpt_nyu", "vit_hybrid")]
)
def test_other_heads_keys_are_passed_over(tmp_path: Path, name: str, row: str) -> None:
    recipe = load_recipe(name, row, "mini")
    assert recipe.model.head is not None
    document = yaml.safe_load(dump(recipe))
    document["model"]["head"] = OLD | document["model"]["head"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert {key for key in flat(recipe) if key.startswith("model.head.")} == {
        f"model.head.{key}" for key in type(recipe.model.head).model_fields
    }
