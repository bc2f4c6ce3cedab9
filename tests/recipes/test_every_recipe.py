"""Every recipe that comes along: it loads and builds in all rows and profiles, and says what the papers print."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from pvtctl.models.backbones import build_classifier
from pvtctl.models.layers.shapes import without_values
from pvtctl.recipe.load import load_recipe, rows_of
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import read_recipe, recipe_names, recipes_folder

RUNS = {  # rows x profiles; a new recipe is a new line here
    "ade20k_semantic_fpn": 51,
    "ade20k_trans2seg": 12,
    "coco_detr_50e": 6,
    "coco_mask_rcnn_1x": 48,
    "coco_mask_rcnn_3x": 27,
    "coco_retinanet_1x": 48,
    "coco_retinanet_3x": 27,
    "deeper_vs_wider": 6,
    "depth_by_stage": 12,
    "dpt_ade20k": 6,
    "dpt_backbones": 21,
    "dpt_depth_mix": 9,
    "depth_anything_finetune": 6,
    "dpt_kitti": 3,
    "dpt_nyu": 3,
    "dpt_pascal_context": 3,
    "dpt_readout": 9,
    "dpt_resolution": 12,
    "dpt_skip_layers": 15,
    "dpt_speed": 12,
    "finetune_classification": 3,
    "gcnet": 6,
    "imagenet_pvt_v1": 48,
    "imagenet_pvt_v2": 96,
    "input_scale": 9,
    "mlp_ratio": 12,
    "pretrained_vs_scratch": 18,
    "pvt_v2_steps": 12,
    "pvt_v2_detectors": 9,
    "small_depth": 3,
    "small_maps": 3,
    "small_masks": 3,
    "small_objects": 3,
    "small_photos": 3,
    "sra_ratio": 9,
    "vit_vs_pvt": 9,
}

PAPER_DATA = {
    "classification": ("imagenet",),
    "detection": ("coco",),
    "segmentation": ("ade20k", "pascal_context", "masks"),
    "depth": ("nyu", "kitti", "mix", "depth"),
}
"""What profile `paper` trains on."""


@functools.cache
def runs_of(name: str) -> list[Recipe]:
    return [
        load_recipe(name, row, profile)
        for row in rows_of(name) or [None]
        for profile in list(read_recipe(name).profiles)
    ]


def test_every_file_is_known() -> None:
    files = sorted(path.stem for path in recipes_folder().rglob("*") if path.suffix in (".yaml", ".yml"))
    assert files == recipe_names() == sorted(RUNS)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_every_row_and_profile_loads(name: str) -> None:
    recipes = runs_of(name)
    assert len(recipes) == RUNS[name]
    assert list(read_recipe(name).profiles) == ["paper", "mini", "smoke"]
    for recipe in recipes:
        assert recipe.about
        if recipe.profile == "paper":
            assert recipe.data.name in PAPER_DATA[recipe.task]
        else:
            assert recipe.data.name == "scenes"
            assert (recipe.data.train_samples or 0) % 2 == 0
            assert recipe.train.batch_size is None  # a small machine takes the total batch as it comes
            schedule = recipe.train.schedule
            assert schedule.warmup_steps is not None or schedule.warmup_epochs < recipe.train.epochs
            assert recipe.train.iterations is None


def is_classification(name: str) -> bool:
    return all(layer.values.get(("task",), "classification") == "classification" for layer in read_recipe(name).shared)


@pytest.mark.parametrize("name", sorted(filter(is_classification, RUNS)))
def test_every_classifier_builds(name: str) -> None:
    """On the meta device: shapes without memory."""
    settings = {recipe.model.backbone.model_dump_json(): recipe for recipe in runs_of(name)}
    if any(recipe.model.backbone.name.startswith("timm:") for recipe in settings.values()):
        pytest.importorskip("timm", reason="needs the timm extra")
    for recipe in settings.values():
        options = recipe.model.backbone.model_dump(exclude={"name", "width", "options", "image_size"})
        with without_values():
            model = build_classifier(
                recipe.model.backbone.spec, num_classes=1000, image_size=recipe.data.image_size, **options
            )
        printed = recipe.expect.get("params_m") if recipe.model.backbone.width == 1 else None
        if printed is not None and printed.paper is not None:
            millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            assert millions == pytest.approx(printed.code or printed.paper, abs=0.8), recipe.row


OF_NO_PAPER = ("depth_by_stage", "mlp_ratio", "sra_ratio")
"""Studies of what the papers do not compare."""


def test_headers_say_what_it_costs_and_how_to_run_it() -> None:
    for name in recipe_names():
        head = read_recipe(name).path.read_text(encoding="utf-8").split("\n\nabout:")[0]
        assert all(line.startswith("#") for line in head.splitlines())
        for word in ("# Asks" if name in OF_NO_PAPER else "# Reproduces", "# Cost", "# Run         pvtctl "):
            assert word in head, f"{name}: {word}"


def as_printed(name: str, metric: str) -> list[tuple[str, Any, Any, Any]]:
    """(method, parameters, GMACs, score) of every row that stands for this recipe's own table."""
    source = read_recipe(name)
    recipes = [load_recipe(name, row) for row in source.rows]
    table = next(
        layer.values["paper", "table"] for layer in reversed(source.shared) if ("paper", "table") in layer.values
    )
    rows: list[Any] = [recipe for recipe in recipes if recipe.paper is not None and recipe.paper.table == table]
    rows += source.printed.values()
    return sorted(
        (row.title, *(row.expect[key].paper if key in row.expect else None for key in ("params_m", "gmacs", metric)))
        for row in rows
    )


@pytest.mark.parametrize(
    ("name", "table", "metric"),
    [
        ("imagenet_pvt_v1", "pvt_v1_t2", "top1_err"),
        ("imagenet_pvt_v2", "pvt_v2_t2", "top1_acc"),
    ],
)
def test_figures_are_the_printed_ones(shared: Path, name: str, table: str, metric: str) -> None:
    rows = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["tables"][table]["rows"]
    printed = sorted((row["method"], row["params_m"], row["gflops"], row[metric]) for row in rows)
    assert as_printed(name, metric) == printed


def test_starred_rows_of_v1_are_printed_only(shared: Path) -> None:
    rows = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["tables"]["pvt_v1_t2"][
        "rows"
    ]
    starred = {(row["method"], row["top1_err"]) for row in rows if row["original_recipe"]}
    source = read_recipe("imagenet_pvt_v1")
    ours = {(r.title, r.expect["top1_err"].paper) for r in source.printed.values() if r.note.startswith("starred")}
    assert ours == starred


def test_the_wide_row_is_table_9(shared: Path) -> None:
    rows = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["tables"]["pvt_v1_t9"][
        "rows"
    ]
    recipe = load_recipe("imagenet_pvt_v1", "pvt_small_wide")
    assert recipe.paper is not None
    assert recipe.paper.table == 9
    assert recipe.expect["params_m"].paper == rows[0]["params_m"]
    assert recipe.expect["top1_err"].paper == rows[0]["top1_err"]


def test_settings_of_the_official_code(shared: Path) -> None:
    """Facts 8.1 and 8.2: drop path and clipping by size, the lagging schedule, learning rate at 1024."""
    facts = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["recipes"]
    v1, v2 = facts["pvt_classification"], facts["pvt_v2_classification"]
    for size in ("tiny", "small", "medium", "large"):
        recipe = load_recipe("imagenet_pvt_v1", f"pvt_{size}")
        assert recipe.model.backbone.drop_path_rate == v1["drop_path"][size]
        assert recipe.train.clip_grad == v1["clip_grad"][size]
        assert recipe.train.schedule.name == "official_lagging"
        assert recipe.train.optimizer.lr == v1["optimizer"]["lr_at_1024"]
        assert recipe.train.total_batch == v1["total_batch"]
        assert recipe.data.augment.repeats == v1["repeated_augmentation"]["repeats"]
    for size in ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5"):
        recipe = load_recipe("imagenet_pvt_v2", f"pvt_v2_{size}")
        assert recipe.model.backbone.drop_path_rate == v2["drop_path"][size]
        assert recipe.train.clip_grad == v2["clip_grad"][size]
        assert recipe.data.augment == load_recipe("imagenet_pvt_v1", "pvt_tiny").data.augment
