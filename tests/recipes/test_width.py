"""`model.backbone.width` and `model.head.width` in recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvtctl.cli._weights import choose_weights
from pvtctl.errors import UsageError
from pvtctl.models.layers.shapes import without_values
from pvtctl.recipe.load import load_recipe
from pvtctl.recipe.schema import BackboneSettings
from pvtctl.runs.paper_table import compare_with_paper
from pvtctl.tasks.from_recipe import backbone_options, meta_of
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses


def test_a_width_is_part_of_what_is_built_and_written() -> None:
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small", overrides=["model.backbone.width=0.25"])
    assert recipe.model.backbone.spec == "pvt_small@0.25"
    assert meta_of(recipe).backbone == "pvt_small@0.25"
    assert not {"name", "width"} & set(backbone_options(recipe.model.backbone))


def test_a_factor_in_the_name_counts() -> None:
    assert BackboneSettings(name="pvt_small@0.25") == BackboneSettings(name="pvt_small", width=0.25)
    assert BackboneSettings(name="pvt_small@0.5", width=0.25).spec == "pvt_small@0.5"
    assert BackboneSettings(name="pvt_small@1", width=0.25).spec == "pvt_small"
    assert BackboneSettings(name="pvt_small").spec == "pvt_small"


@pytest.mark.parametrize(
    "setting", ["model.backbone.width=0", "model.backbone.width=9", "model.backbone.name=pvt_small@x"]
)
def test_a_width_out_of_range_is_a_fault(setting: str) -> None:
    with pytest.raises(UsageError, match=r"model\.backbone"):
        load_recipe("imagenet_pvt_v1", "pvt_small", overrides=[setting])


@pytest.mark.parametrize(
    ("recipe", "row"),
    [("ade20k_semantic_fpn", "pvt_tiny"), ("dpt_backbones", None), ("dpt_ade20k", None)],
)
def test_heads_take_a_width(recipe: str, row: str | None) -> None:
    from pvtctl.recipe.load import rows_of

    row = row or next(each for each in rows_of(recipe) if "resnet" in each or "deit" in each or "vit" in each)
    settings = ["model.head.width=16"]
    plain, narrow = (load_recipe(recipe, row, overrides=own) for own in ([], settings))
    with without_values():
        sizes = [
            sum(p.numel() for p in spec_of(one).new_model(one, HeadClasses(5, None)).parameters())
            for one in (plain, narrow)
        ]
    assert sizes[1] < sizes[0]


def test_detr_has_no_width() -> None:
    with pytest.raises(UsageError, match=r"model\.head\.width: is for retinanet"):
        load_recipe("coco_detr_50e", "pvt_small", overrides=["model.head.width=64"])


def test_a_narrow_run_is_counted_at_the_papers_width() -> None:
    numbers = {"top1": 0.5, "top5": 0.9, "loss": 1.0, "ece": 0.1, "images": 10}
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small", "mini", ["model.backbone.width=0.25"])
    figures, _ = compare_with_paper(recipe, numbers, 12)
    assert next(each.measured for each in figures if each.name == "params_m") == pytest.approx(24.486, abs=1e-3)


def test_a_narrower_run_is_named_where_the_whole_width_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PVTCTL_RUNS", str(tmp_path))
    run = tmp_path / "first"
    run.mkdir()
    narrow = load_recipe("imagenet_pvt_v1", "pvt_tiny", "mini")
    (run / "recipe.yaml").write_text(json.dumps(narrow.model_dump(mode="json")))
    (run / "run.json").write_text(json.dumps({"finished": "2026-01-01", "status": "finished"}))
    (run / "best.safetensors").touch()
    assert choose_weights("pvt_tiny@0.25", "scenes", None).source == str(run)
    with pytest.raises(UsageError) as fault:
        choose_weights("pvt_tiny", "scenes", None)
    assert fault.value.hint == "one of pvt_tiny@0.25 is there: --backbone pvt_tiny@0.25"
    with pytest.raises(UsageError, match="published ones fit the full width only") as fault:
        choose_weights("pvt_small@0.25", "scenes", None)
    assert fault.value.hint == "train: pvtctl pretrain scenes --backbone pvt_small@0.25"
    with pytest.raises(UsageError) as fault:
        choose_weights("pvt_small", "scenes", None)
    assert "pvtctl pretrain scenes --backbone pvt_small@1" in str(fault.value.hint)
    with pytest.raises(UsageError, match="published ones have the papers' sizes") as fault:
        choose_weights("pvt_tiny+sr_ratios=4,2,1,1", "scenes", None)
    assert fault.value.hint == "train: pvtctl pretrain scenes --backbone pvt_tiny@1+sr_ratios=4,2,1,1"


def test_timms_models_keep_their_width() -> None:
    recipe = load_recipe("imagenet_pvt_v2", "swin_b", "mini")
    assert recipe.model.backbone.spec == "timm:swin_base_patch4_window7_224"
    assert recipe.model.backbone.width == 1.0
