"""The recipes of segmentation and depth: every printed figure, the papers' settings, and models of the printed sizes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from pvtctl.errors import UsageError
from pvtctl.models.layers.shapes import without_values
from pvtctl.recipe.load import find_profile, find_row, load_recipe, rows_of
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import read_recipe
from pvtctl.runs.paper_table import label_of
from pvtctl.tasks.registry import spec_of
from pvtctl.weights.describe import HeadClasses

SEGMENTATION = "pixel_acc=pixacc miou=miou"
METRIC = "delta1=d125 delta2=d125_2 delta3=d125_3 abs_rel=absrel rmse=rmse"
RELATIVE = "hrwsi_rel=hrwsi blendedmvs_rel=blendedmvs redweb_rel=redweb mean_rel=mean"
SIX_SETS = " ".join(
    f"{name}_{score}={name}_{score}"
    for name, score in (
        ("diw", "whdr"),
        ("eth3d", "absrel"),
        ("sintel", "absrel"),
        ("kitti", "d125"),
        ("nyu", "d125"),
        ("tum", "d125"),
    )
)
# recipe, table of the paper, columns that name its rows, metric=column
TABLES = [
    ("ade20k_semantic_fpn", "pvt_v1_t5", "backbone", "params_m=params_m gmacs=gflops_512 miou=miou"),
    ("ade20k_semantic_fpn", "pvt_v2_t5", "backbone", "params_m=params_m gmacs=gflops_512 miou=miou"),
    ("ade20k_trans2seg", "pvt_v1_t7", "method", "params_m=params_m gmacs=gflops miou=miou"),
    ("dpt_depth_mix", "dpt_t1", "model, training_set", SIX_SETS),
    ("dpt_nyu", "dpt_t2", "model", f"{METRIC} log10=log10"),
    ("dpt_kitti", "dpt_t3", "model", f"{METRIC} rmse_log=rmse_log"),
    ("dpt_ade20k", "dpt_t4", "model backbone", SEGMENTATION),
    ("dpt_pascal_context", "dpt_t5", "model backbone", SEGMENTATION),
    ("dpt_skip_layers", "dpt_t6", "backbone layers", RELATIVE),
    ("dpt_readout", "dpt_t7", "readout", RELATIVE),
    ("dpt_backbones", "dpt_t8", "backbone", RELATIVE),
    ("dpt_speed", "dpt_t9", "model", "params_m=params_m time_ms=time_ms"),
]
TITLES = {
    "PVT-Large (320k iters, multi-scale + flip test)": "PVT-Large*",
    "DPT-Hybrid ViT-Hybrid": "DPT-Hybrid",
    "DPT-Large ViT-Large": "DPT-Large",
}
"""What the tables' file calls a row -> what the recipe does, where that differs."""


def rows_or_none(name: str) -> list[str | None]:
    return [*rows_of(name)] or [None]


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, Any]:
    return yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "table", "title", "columns"), TABLES)
def test_figures_are_the_printed_ones(facts: dict[str, Any], name: str, table: str, title: str, columns: str) -> None:
    pairs = [pair.split("=") for pair in columns.split()]
    joint = ", " if "," in title else " "
    printed = []
    for row in facts["tables"][table]["rows"]:
        words = joint.join(row[column] for column in title.split(joint))
        printed.append((TITLES.get(words, words), *(row[column] for _, column in pairs)))
    source = read_recipe(name)
    number = int(table.rpartition("t")[2])
    rows: list[Any] = [load_recipe(name, row) for row in source.rows]
    rows = [row for row in rows if row.paper is not None and (row.paper.key, row.paper.table) == (table[:-3], number)]
    rows += source.printed.values()
    ours = [
        (row.title, *(row.expect[metric].paper if metric in row.expect else None for metric, _ in pairs))
        for row in rows
    ]
    assert sorted(ours, key=str) == sorted(printed, key=str)


def test_figure_4_prints_none() -> None:
    rows = [load_recipe("dpt_resolution", row) for row in rows_of("dpt_resolution")]
    assert [row.title for row in rows] == ["ViT-Hybrid", "DeiT-Distilled", "ResNeXt-101", "ResNet-50"]
    assert not any(row.expect for row in rows)


def test_what_the_repositories_reach(facts: dict[str, Any]) -> None:
    for row in facts["tables"]["pvt_v1_t5_code"]["rows"]:
        recipe = load_recipe("ade20k_semantic_fpn", row["backbone"].lower().replace("-", "_"))
        assert (recipe.expect["miou"].code, recipe.expect["miou"].paper) == (row["miou_code"], row["miou_paper"])
    names = {"d1": "delta1", "d2": "delta2", "d3": "delta3", "absrel": "abs_rel", "sqrel": "sq_rel"}
    rows = {row["model"]: row for row in facts["tables"]["dpt_eval_repo"]["rows"]}
    for recipe_name, row in (("dpt_nyu", rows["dpt_hybrid_nyu"]), ("dpt_kitti", rows["dpt_hybrid_kitti"])):
        expect = load_recipe(recipe_name, "vit_hybrid").expect
        reached = {names.get(key, key): value for key, value in row.items() if isinstance(value, float)}
        assert {name: figure.code for name, figure in expect.items()} == reached


def test_settings_of_dpts_segmentation(facts: dict[str, Any]) -> None:
    said = facts["recipes"]["dpt"]["seg_training"]
    for name, row in (
        ("dpt_ade20k", "vit_hybrid"),
        ("dpt_ade20k", "vit_large_patch16"),
        ("dpt_pascal_context", "vit_hybrid"),
    ):
        recipe = load_recipe(name, row)
        train, data, head = recipe.train, recipe.data.segmentation, recipe.model.head
        assert head is not None
        assert (train.optimizer.name, train.optimizer.lr, train.optimizer.momentum) == (
            "sgd",
            said["lr"],
            said["momentum"],
        )
        assert f"{train.schedule.name} {train.schedule.power}" == said["schedule"]
        assert train.schedule.warmup_epochs == 0
        assert (train.total_batch, train.epochs) == (said["batch"], said["epochs_" + name.removeprefix("dpt_")])
        assert (data.short_side, list(data.scale), data.crop) == (said["resize"], said["scale"], (said["crop"],) * 2)
        assert data.hflip == 0.5
        assert (head.name, head.auxiliary_weight, head.dropout) == ("dpt", said["aux_weight"], said["dropout"])
        assert len(recipe.eval.ratios) > 1
        assert recipe.data.normalization == "half"


def test_settings_of_dpts_depth(facts: dict[str, Any]) -> None:
    said, inference = facts["recipes"]["dpt"]["depth_training"], facts["recipes"]["dpt"]["inference"]
    for name in ("dpt_depth_mix", "dpt_backbones", "dpt_skip_layers", "dpt_readout", "dpt_resolution", "dpt_speed"):
        for row in rows_of(name):
            recipe = load_recipe(name, row)
            optimizer, loss = recipe.train.optimizer, recipe.train.loss
            assert (optimizer.name, optimizer.lr) == ("adam", said["lr_decoder"])
            assert optimizer.lr * optimizer.backbone_lr_mult == pytest.approx(said["lr_backbone"])
            assert (loss.name, loss.trim, loss.gradient_weight) == ("ssi_trimmed", 0.2, 0.5)
            assert (recipe.train.total_batch, recipe.data.depth.hflip) == (said["batch"], 0.5)
            assert recipe.data.depth.size == (said["crop"],) * 2
            assert list(recipe.data.depth.test_size) == inference["depth_size"]
            assert recipe.data.depth.multiple == inference["multiple_of"]
            cnn = recipe.model.backbone.name.startswith("res")
            assert recipe.data.normalization == ("imagenet" if cnn else "half")
            assert recipe.model.backbone.image_size == (None if cnn else 384)
            assert recipe.model.head is not None
            assert recipe.model.head.name == ("midas" if cnn else "dpt")
            assert recipe.model.head.scale_shift is None
    mix = load_recipe("dpt_depth_mix", "vit_large_patch16")
    assert mix.train.iterations == said["epochs"] * said["steps_per_epoch"]
    assert len(mix.data.depth.mix) == 10
    assert set(load_recipe("dpt_backbones", "resnet50").data.depth.mix) == {"redweb", "hrwsi", "blendedmvs"}


@pytest.mark.parametrize(
    ("name", "scale_shift", "size", "depth_crop", "farthest", "crop", "gradient"),
    [
        ("dpt_nyu", "nyu_scale_shift", "nyu_size_wh", "none", 10, "eigen", 0.5),
        ("dpt_kitti", "kitti_scale_shift", "kitti_size_wh", "kb", 80, "garg", 0),
    ],
)
def test_settings_of_metric_depth(
    facts: dict[str, Any],
    name: str,
    scale_shift: str,
    size: str,
    depth_crop: str,
    farthest: float,
    crop: str,
    gradient: float,
) -> None:
    said = facts["recipes"]["dpt"]["inference"]
    recipe = load_recipe(name, "vit_hybrid")
    assert recipe.model.head is not None
    assert recipe.model.head.scale_shift is not None
    assert list(recipe.model.head.scale_shift) == [float(each) for each in said[scale_shift]]
    assert list(recipe.data.depth.test_size) == said[size][::-1]
    assert (recipe.data.depth.crop, recipe.data.depth.min_depth, recipe.data.depth.max_depth) == (
        depth_crop,
        1e-3,
        farthest,
    )
    assert (recipe.eval.crop, recipe.eval.max_depth, recipe.eval.alignment) == (crop, farthest, "none")
    assert (recipe.train.loss.name, recipe.train.loss.gradient_weight) == ("silog", gradient)


def test_layers_and_readouts_of_the_ablations() -> None:
    heads = {row: load_recipe("dpt_skip_layers", row).model.head for row in rows_of("dpt_skip_layers")}
    taps = {row: head.taps for row, head in heads.items() if head is not None}
    assert taps["base_6_8_10_12"] == (6, 8, 10, 12)
    assert taps["hybrid_r0_r1_9_12"] == ("R0", "R1", 9, 12)
    for row in rows_of("dpt_readout"):
        head = load_recipe("dpt_readout", row).model.head
        assert head is not None
        assert head.readout == row


def test_settings_of_pvts_segmentation(facts: dict[str, Any]) -> None:
    for row in rows_of("ade20k_semantic_fpn"):
        recipe = load_recipe("ade20k_semantic_fpn", row)
        data, train = recipe.data.segmentation, recipe.train
        assert (data.short_side, data.long_side, data.scale, data.crop) == (512, 2048, (0.5, 2.0), (512, 512))
        if row.startswith("pvt"):
            assert (train.optimizer.name, train.optimizer.lr, train.total_batch) == ("adamw", 1e-4, 16)
            assert recipe.model.backbone.drop_path_rate == 0.1
        else:
            assert (train.optimizer.name, train.optimizer.lr, train.total_batch) == ("sgd", 0.02, 32)
        assert (train.schedule.name, train.schedule.power) == ("poly", 0.9)
    strides = [load_recipe("ade20k_trans2seg", row).model.backbone.output_stride for row in rows_of("ade20k_trans2seg")]
    assert strides == [8, 16, 16, 32]


IDLE, CLASSIFIER = 1.180, 0.771
"""Millions that DPT's code counts and nothing uses: a residual unit, and ViT-Base's classifier with its norm."""
EXTRA = {
    ("dpt_speed", "resnext101_32x8d"): IDLE,
    ("dpt_speed", "vit_base_patch16"): IDLE + CLASSIFIER,
    ("dpt_speed", "vit_hybrid"): IDLE + CLASSIFIER,
    ("dpt_speed", "vit_large_patch16"): IDLE,
}
UNRESOLVED = {("ade20k_trans2seg", "resnet50"): 36.72, ("ade20k_trans2seg", "pvt_small"): 30.56}
"""Trans2Seg's rows, of which the printed parameters count something else (docs/cost.md): what the model has."""
DENSE = sorted(
    {name for name, *_ in TABLES} | {"depth_anything_finetune", "dpt_resolution", "small_maps", "small_depth"}
)


@pytest.mark.parametrize("name", DENSE)
def test_models_build_and_have_the_printed_parameters(name: str) -> None:
    """On the meta device, all rows and profiles. Figures are rounded, rounded twice (PVTv2-B0) or cut off (Table 7)."""
    built: dict[str, float] = {}
    for row in rows_or_none(name):
        for profile in list(read_recipe(name).profiles):
            recipe = load_recipe(name, row, profile)
            assert recipe.model.head is not None
            key = recipe.model.model_dump_json(exclude={"backbone": {"drop_path_rate"}})
            if key not in built:
                with without_values():
                    model = spec_of(recipe).new_model(recipe, HeadClasses(150, None))
                built[key] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            figure = recipe.expect.get("params_m")
            if profile != "paper" or figure is None or row is None:
                continue
            millions = built[key] + EXTRA.get((name, row), 0)
            if (name, row) in UNRESOLVED:
                assert round(millions, 2) == UNRESOLVED[name, row]
                continue
            digits = 0 if name == "dpt_speed" else 1
            fits = {round(millions, digits), round(round(millions, digits + 1) + 1e-9, digits)}
            cut = math.floor(millions * 10) / 10
            assert figure.paper in (fits | {cut} if name == "ade20k_trans2seg" else fits), (row, millions)


def test_figures_have_names() -> None:
    for name in DENSE:
        for row in rows_or_none(name):
            recipe = load_recipe(name, row)
            assert [figure for figure in recipe.expect if label_of(figure, recipe) == figure] == []


@pytest.mark.parametrize(
    ("data", "backbone", "task", "head", "found"),
    [
        ("ade20k", "pvt_small", "segmentation", "semantic_fpn", ("ade20k_semantic_fpn", "pvt_small")),
        ("ade20k", "pvt_small", "segmentation", None, ("ade20k_semantic_fpn", "pvt_small")),
        ("ade20k", "pvt_small", "segmentation", "trans2seg", ("ade20k_trans2seg", "pvt_small")),
        ("ade20k", "vit_hybrid", "segmentation", "dpt", ("dpt_ade20k", "vit_hybrid")),
        ("pascal_context", "vit_hybrid", "segmentation", "dpt", ("dpt_pascal_context", "vit_hybrid")),
        ("nyu", "vit_hybrid", "depth", "dpt", ("dpt_nyu", "vit_hybrid")),
        ("kitti", "vit_hybrid", "depth", "dpt", ("dpt_kitti", "vit_hybrid")),
        ("mix", "vit_large_patch16", "depth", "dpt", ("dpt_backbones", "vit_large_patch16")),
        ("mix", "resnet50", "depth", "midas", ("dpt_backbones", "resnet50")),
    ],
)
def test_the_main_tables_are_found(
    data: str, backbone: str, task: str, head: str | None, found: tuple[str, str]
) -> None:
    assert find_row(data, backbone, task, head=head) == found
    assert find_profile(found[0], data) == "paper"


def load_with(*overrides: str, name: str = "dpt_backbones", row: str = "resnet50") -> Recipe:
    return load_recipe(name, row, overrides=list(overrides))


def test_a_mix_gives_way_to_other_data() -> None:
    assert load_with("data.name=depth").data.name == "depth"
    with pytest.raises(UsageError, match=r"data\.depth\.mix.*is for data\.name: mix, depth is one set"):
        load_with("data.name=depth", "data.depth.mix.mine.path=here")
    with pytest.raises(UsageError, match="mix needs depth sets by name"):
        load_with("data.name=mix", name="dpt_nyu", row="vit_hybrid")
    mine = load_with("data.depth.mix.mine.path=here", "data.depth.mix.mine.weight=2").data.depth.mix["mine"]
    assert (mine.path, mine.weight, mine.name) == ("here", 2.0, "depth")
