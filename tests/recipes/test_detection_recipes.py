"""The detection recipes: every printed figure, the settings of the official configurations, and models of the printed sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pvtctl.models.layers.shapes import without_values
from pvtctl.recipe.load import load_recipe, rows_of
from pvtctl.recipe.schema import Recipe
from pvtctl.recipe.source import read_recipe
from pvtctl.tasks.from_recipe import backbone_options

RETINANET = "box_ap=ap{} box_ap50=ap50{} box_ap75=ap75{} box_ap_small=aps{} box_ap_medium=apm{} box_ap_large=apl{}"
MASK_RCNN = "box_ap=apb{} box_ap50=apb50{} box_ap75=apb75{} mask_ap=apm{} mask_ap50=apm50{} mask_ap75=apm75{}"
AP = "box_ap=ap box_ap50=ap50 box_ap75=ap75"
# recipe, table of the paper, column that names its rows, metric=column
TABLES = [
    ("coco_retinanet_1x", "pvt_v1_t3", "backbone", "params_m=params_m " + RETINANET.replace("{}", "_1x")),
    ("coco_retinanet_3x", "pvt_v1_t3", "backbone", "params_m=params_m " + RETINANET.replace("{}", "_3x_ms")),
    ("coco_mask_rcnn_1x", "pvt_v1_t4", "backbone", "params_m=params_m " + MASK_RCNN.replace("{}", "_1x")),
    ("coco_mask_rcnn_3x", "pvt_v1_t4", "backbone", "params_m=params_m " + MASK_RCNN.replace("{}", "_3x_ms")),
    (
        "coco_retinanet_1x",
        "pvt_v2_t3",
        "backbone",
        "params_m=ret_params_m " + RETINANET.replace("{}", "").replace("=apm", "=apm_size"),
    ),
    ("coco_mask_rcnn_1x", "pvt_v2_t3", "backbone", "params_m=mask_params_m " + MASK_RCNN.replace("{}", "")),
    ("coco_detr_50e", "pvt_v1_t6", "backbone", RETINANET.replace("{}", "")),
    ("vit_vs_pvt", "pvt_v1_t8", "backbone", "params_m=params_m " + RETINANET.replace("{}", "")),
    ("deeper_vs_wider", "pvt_v1_t9", "", f"params_m=params_m top1_err=top1_err {AP}"),
    ("pretrained_vs_scratch", "pvt_v1_fig5", "", "box_ap=final_ap"),
    ("gcnet", "pvt_v1_t10", "", "params_m=params_m gmacs=gflops mask_ap=apm mask_ap50=apm50 mask_ap75=apm75"),
    ("input_scale", "pvt_v1_t11", "", f"gmacs=gflops latency_ms=time_ms {AP}"),
    ("pvt_v2_steps", "pvt_v2_t6", "", "top1_acc=top1_acc params_m=params_m gmacs=gflops box_ap=ap"),
    ("pvt_v2_detectors", "pvt_v2_t4", "", "box_ap=apb box_ap50=apb50 box_ap75=apb75 params_m=params_m gmacs=gflops"),
]


@pytest.mark.parametrize(("name", "table", "title", "columns"), TABLES)
def test_figures_are_the_printed_ones(shared: Path, name: str, table: str, title: str, columns: str) -> None:
    tables = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["tables"]
    pairs = [pair.split("=") for pair in columns.split()]
    printed = [(row.get(title), *(row[column] for _, column in pairs)) for row in tables[table]["rows"]]
    source = read_recipe(name)
    rows: list[Any] = [load_recipe(name, row) for row in source.rows]
    key, _, number = table.rpartition("_")
    rows = [
        row for row in rows if (row.paper.key, row.paper.table or row.paper.figure) == (key, int(number.lstrip("tfig")))
    ]
    if source.printed:
        rows = list(source.printed.values())
    ours = [
        (
            row.title if title else None,
            *(row.expect[metric].paper if metric in row.expect else None for metric, _ in pairs),
        )
        for row in rows
    ]
    assert sorted(ours, key=str) == sorted(printed, key=str)


def test_v2_three_times_schedule_states_what_the_repository_reaches(shared: Path) -> None:
    tables = yaml.safe_load((shared / "papers" / "tables.yaml").read_text(encoding="utf-8"))["tables"]
    rows = {row["backbone"]: row for row in tables["pvt_v2_repo_extra"]["rows"] if row["detector"] == "Mask R-CNN"}
    for title, row in (("PVTv2-B0", "pvt_v2_b0"), ("PVTv2-B2", "pvt_v2_b2")):
        recipe = load_recipe("pvt_v2_detectors", row)
        assert recipe.expect["box_ap"].code == rows[title]["box_ap"]
        assert recipe.expect["mask_ap"].code == rows[title]["mask_ap"]


def settings(recipe: Recipe) -> tuple[Any, ...]:
    train = recipe.train
    return (
        train.optimizer.name,
        round(train.optimizer.lr, 9),
        train.optimizer.weight_decay,
        train.total_batch,
        train.epochs,
        train.schedule.steps,
        train.schedule.warmup_steps,
    )


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("coco_retinanet_1x", "pvt_small", ("adamw", 1e-4, 1e-4, 16, 12, (8, 11), 500)),
        ("coco_retinanet_1x", "pvt_v2_b5", ("adamw", 7.1429e-5, 1e-4, 8, 12, (8, 11), 500)),
        ("coco_retinanet_1x", "resnet50", ("sgd", 0.01, 1e-4, 16, 12, (8, 11), 500)),
        ("coco_retinanet_3x", "pvt_large", ("adamw", 1e-4, 1e-4, 16, 36, (27, 33), 500)),
        ("coco_mask_rcnn_1x", "pvt_small", ("adamw", 2e-4, 1e-4, 16, 12, (8, 11), 500)),
        ("coco_mask_rcnn_1x", "pvt_large", ("adamw", 1.4286e-4, 1e-4, 8, 12, (8, 11), 500)),
        ("pvt_v2_detectors", "pvt_v2_b2", ("adamw", 1e-4, 0.05, 16, 36, (27, 33), 500)),
        ("coco_detr_50e", "pvt_small", ("adamw", 1e-4, 1e-4, 16, 50, (33,), 0)),
        ("gcnet", "resnet50_gc_r4", ("sgd", 0.02, 1e-4, 16, 12, (8, 11), 500)),
    ],
)
def test_settings_of_the_official_configurations(name: str, row: str, expected: tuple[Any, ...]) -> None:
    """Facts 8.4 and 10."""
    recipe = load_recipe(name, row)
    assert settings(recipe) == expected
    ratio = 1 / 3 if name == "gcnet" and row != "pvt_small" else 1e-3
    if recipe.train.schedule.warmup_steps:
        assert recipe.train.schedule.warmup_lr == pytest.approx(recipe.train.optimizer.lr * ratio, rel=1e-4)


def test_drop_path_clipping_and_augmentation_of_the_official_configurations() -> None:
    rates = {
        row: load_recipe("coco_retinanet_1x", row).model.backbone.drop_path_rate
        for row in ("pvt_tiny", "pvt_small", "pvt_medium", "pvt_large", "pvt_v2_b0", "pvt_v2_b5")
    }
    assert list(rates.values()) == [0.1, 0.1, 0.0, 0.0, 0.1, 0.1]
    detr = load_recipe("coco_detr_50e", "pvt_small")
    assert (detr.train.clip_grad, detr.train.optimizer.backbone_lr_mult) == (0.1, 0.1)
    assert detr.data.detection.short_sides == tuple(range(640, 801, 32))
    assert load_recipe("coco_mask_rcnn_3x", "pvt_small").data.detection.sampling == "range"
    swin = load_recipe("pvt_v2_detectors", "pvt_v2_b2").data.detection
    assert (swin.short_sides, swin.crop) == (tuple(range(480, 801, 32)), 0.5)
    small = load_recipe("input_scale", "pvt_small_640").data.detection
    assert (small.short_sides, small.long_side, small.test_short_side, small.test_long_side) == (
        (640,),
        1066,
        640,
        1066,
    )
    scratch = {row: load_recipe("pretrained_vs_scratch", row).model.init for row in rows_of("pretrained_vs_scratch")}
    assert [row for row, init in scratch.items() if init == "scratch"] == [
        "pvt_small_scratch_1x",
        "pvt_small_scratch_3x",
    ]


# What the printed parameters of a recipe count, if not the detector's.
OF_THE_CLASSIFIER = ("deeper_vs_wider",)


TRAINED: dict[tuple[str, str], int] = {}
"""Trained parameters of the detectors built so far, by backbone and head, which several recipes share."""


@pytest.mark.parametrize("name", sorted({name for name, *_ in TABLES}))
def test_models_have_the_printed_parameters(name: str) -> None:
    """To the digit printed, PVTv2-B0 rounded twice (12.947, 12.95, 13.0); CNNs the trainable ones."""
    from pvtctl.models.detector import build_detector

    for row in rows_of(name):
        recipe = load_recipe(name, row)
        model = recipe.model
        assert model.head is not None
        key = model.backbone.model_dump_json(exclude={"drop_path_rate"}), model.head.name
        if key not in TRAINED:
            with without_values():
                options = backbone_options(model.backbone)
                detector = build_detector(
                    model.backbone.name, model.head.name, num_classes=80, backbone_options=options
                )
            TRAINED[key] = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        printed = recipe.expect.get("params_m")
        if printed is not None and name not in OF_THE_CLASSIFIER:
            millions = TRAINED[key] / 1e6
            assert printed.paper in (round(millions, 1), round(round(millions, 2) + 1e-9, 1)), row
