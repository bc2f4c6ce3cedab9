"""`model.backbone.options`: keys of every backbone, checked with the recipe's image size, in YAML, JSON Schema and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvtctl.errors import UsageError
from pvtctl.models import registry
from pvtctl.models.registry import BackboneOptions, BackboneSpec, backbone_specs, register
from pvtctl.recipe.json_schema import file_schema
from pvtctl.recipe.layers import known_keys
from pvtctl.recipe.load import dump, load_recipe, recipe_differences
from pvtctl.recipe.schema import BackboneSettings
from pvtctl.runs.paper_table import is_printed_model

RATIOS = "model.backbone.options.sr_ratios"


def pvt_small(*settings: str, profile: str = "paper") -> Any:
    return load_recipe("imagenet_pvt_v1", "pvt_small", profile, settings)


def test_options_make_the_model_and_its_name(tmp_path: Path) -> None:
    recipe = pvt_small(f"{RATIOS}=[4,2,1,1]", profile="mini")
    assert recipe.model.backbone.spec == "pvt_small@0.25+sr_ratios=4,2,1,1"
    assert recipe_differences(pvt_small(profile="mini"), recipe) == {RATIOS: (None, [4, 2, 1, 1])}
    file = tmp_path / "mine.yaml"
    file.write_text(dump(recipe))
    assert load_recipe(file) == recipe
    assert (is_printed_model(recipe), is_printed_model(pvt_small())) == (False, True)


def test_options_of_the_model_itself_change_nothing() -> None:
    recipe = pvt_small(f"{RATIOS}=[8,4,2,1]", "model.backbone.options.depths=null")
    assert (recipe.model.backbone.spec, is_printed_model(recipe)) == ("pvt_small", True)


def test_a_name_sets_them_too() -> None:
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small", "mini", ["model.backbone.name=pvt_v2_b0@0.5+overlap=false"])
    assert recipe.model.backbone.plain_values()["options"] == {"overlap": False}
    assert recipe.model.backbone.spec == "pvt_v2_b0@0.5+overlap=false"
    both = BackboneSettings(name="pvt_tiny+depths=1,1,1,1", options={"sr_ratios": [1, 1, 1, 1]})
    assert both.spec == "pvt_tiny+depths=1,1,1,1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"{RATIOS}=[8,4,2]"], r"options\.sr_ratios: should be four numbers, one per stage \(3 given\)"),
        ([f"{RATIOS}=[8,4,2,x]"], r"options\.sr_ratios: .*integer"),
        (["model.backbone.options.sr_ratio=[8,4,2,1]"], "unknown key .* did you mean sr_ratios"),
        (["model.backbone.options.nosuch=1"], r"one of: patch_sizes, embed_dims, depths, [a-z_, ]*mlp_ratios$"),
        (["model.backbone.name=pvt_v2_b0+nosuch=1"], r"pvt_v2_b0 has no option nosuch \(.*\), one of: patch_sizes, "),
        (
            ["model.backbone.name=resnet18", "model.backbone.options.sr_ratios=1,1,1,1"],
            "resnet18 has no option sr_ratios .*depths",
        ),
        (["model.backbone.name=timm:resnet18", "model.backbone.options.nosuch=1"], "unknown key .*, leave it out"),
        ([f"{RATIOS}=8"], r"options\.sr_ratios: should be four numbers, one per stage \(1 given\)"),
        (["model.backbone.options.sr_ratios=[8,4,2,2]"], "of PVT v1 is 1"),
        (["model.backbone.sr_ratios=[8,4,2,1]"], r"did you mean model\.backbone\.options\.sr_ratios"),
        (
            ["model.backbone.options.num_heads=[1,2,3,8]"],
            r"320 of stage 3 is not a multiple of num_heads 3 \(--set model",
        ),
        (["model.backbone.options.linear_sra=true"], "pvt_small has no option linear_sra"),
        (["model.backbone.options=3"], "takes keys"),
        ([f"{RATIOS}=[64,1,1,1]"], "needs images of at least 256 pixels on each side .*, and here are 224"),
        (["model.backbone.name=timm:resnet18", "model.backbone.options.depth=4"], "timm's models have no options"),
        (["model.backbone.width=9"], "less than or equal to 8"),
    ],
)
def test_what_does_not_fit_is_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as fault:
        pvt_small(*settings)
    assert "\n" not in fault.value.message


def test_the_size_is_that_of_the_task(tmp_path: Path) -> None:
    wide = [f"{RATIOS}=[64,1,1,1]"]
    assert load_recipe("coco_retinanet_1x", "pvt_small", "paper", wide).model.backbone.options.said
    with pytest.raises(UsageError, match="at least 256 pixels"):
        load_recipe("coco_retinanet_1x", "pvt_small", "mini", wide)


def test_every_option_is_a_key_with_a_type_in_the_schema() -> None:
    keys = {path[3] for path in known_keys() if path[:3] == ("model", "backbone", "options")}
    assert keys == {name for spec in backbone_specs() for name in spec.option_names}
    schema = file_schema()
    block = schema["$defs"]["OwnOptions"]
    assert block["properties"].keys() == keys
    assert block["additionalProperties"] is False
    assert json.dumps(schema)


def test_a_registered_backbones_options_are_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(BackboneOptions):
        kernel: int = 3

    backbone_specs()
    monkeypatch.setattr(registry, "_backbones", dict(registry._backbones))
    register(BackboneSpec(name="cells", family="cells", Options=Own, build=lambda options: options))
    settings = ["model.backbone.name=cells", "model.backbone.options.kernel=5"]
    assert pvt_small(*settings).model.backbone.spec == "cells+kernel=5"
    with pytest.raises(UsageError, match=r"model\.backbone\.options\.kernel: should be a valid integer"):
        pvt_small(settings[0], "model.backbone.options.kernel=x")
    with pytest.raises(UsageError, match="cells has no option depths"):
        pvt_small(settings[0], "model.backbone.options.depths=[1,1,1,1]")
