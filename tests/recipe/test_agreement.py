"""Settings that task, data or head never read, and settings that contradict: told with file and line, and only where said."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.errors import UsageError
from pvtctl.recipe.load import dump, find_row, load_recipe
from pvtctl.recipe.source import RecipeFaults

DETECTION = "task: detection\ndata.name: coco\nmodel: {backbone.name: pvt_tiny, head.name: retinanet}\n"
CLASSIFIER = "model.backbone.name: pvt_tiny\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults_of(text: str, sets: tuple[str, ...] = ()) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeFaults) as caught:
        load_recipe("x.yaml", overrides=sets)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "task: detection\ndata.name: coco\nmodel.backbone.name: pvt_tiny\n",
            "model.head: missing: detection needs model.head.name, retinanet or mask_rcnn or detr (x.yaml:1)",
        ),
        (
            f"{CLASSIFIER}model.head.name: detr\n",
            "model.head: a classifier has none; task: detection makes it a detector (x.yaml:2)",
        ),
        (
            DETECTION.replace("coco", "imagenet"),
            "data.name: detection reads coco or scenes, not imagenet (x.yaml:2), ",
        ),
        (
            f"{CLASSIFIER}data.name: coco\n",
            "data.name: classification reads imagenet or scenes, not coco (x.yaml:2), ",
        ),
        (
            f"{CLASSIFIER}data.detection.crop: 0.5\n",
            "data.detection.crop: is for detection, classification does not read it (x.yaml:2)",
        ),
        (
            "task: depth\ndata: {name: mix, depth.mix: {web: {path: a, inverse: true}}}\ntrain.loss.name: silog\n"
            "model: {backbone.name: pvt_tiny, head: {name: dpt, scale_shift: [1, 0]}}\n",
            "train.loss.name: silog compares metres: data.depth.mix.web is inverse depth of an unknown scale (x.yaml:3), ",
        ),
        (
            f"{CLASSIFIER}eval.flip: true\n",
            "eval.flip: is for detection and segmentation and depth, classification does not read it (x.yaml:2)",
        ),
        (
            f"{CLASSIFIER}model.init: scratch\n",
            "model.init: is for detection and segmentation and depth, classification does not read it (x.yaml:2)",
        ),
        (
            f"{CLASSIFIER}data.train_images: a\n",
            "data.train_images: is for coco, imagenet does not read it (x.yaml:2)",
        ),
        (
            f"{DETECTION}data.augment.hflip: 0\n",
            "data.augment.hflip: is for classification, detection reads data.detection (x.yaml:4)",
        ),
        (
            f"{DETECTION}data.resize: 256\n",
            "data.resize: is for classification, detection reads data.detection (x.yaml:4)",
        ),
        (
            f"{DETECTION}data.image_size: 640\n",
            "data.image_size: is the size that scenes is rendered at; coco is sized by data.detection (x.yaml:4)",
        ),
        (
            f"{DETECTION}model.head.num_queries: 50\n",
            "model.head.num_queries: is for detr, retinanet has none (x.yaml:4)",
        ),
        (f"{DETECTION.replace('retinanet', 'detr')}eval.nms_iou: 0.6\n", "eval.nms_iou: DETR has no NMS (x.yaml:4)"),
        (
            f"{DETECTION}model.weights: a.pth\nmodel.init: scratch\n",
            "model.init: scratch, but model.weights names a checkpoint to start from (x.yaml:5)",
        ),
    ],
)
def test_one_fault(text: str, fault: str) -> None:
    found = faults_of(text)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_the_command_line_is_checked_too() -> None:
    assert faults_of(DETECTION, ("eval.nms_iou=0.6", "model.head={name: detr}", "data.resize=300")) == [
        "data.resize: is for classification, detection reads data.detection (--set data.resize=300)",
        "eval.nms_iou: DETR has no NMS (--set eval.nms_iou=0.6)",
    ]


def test_what_was_said_for_something_else_is_passed_over() -> None:
    Path("old.yaml").write_text(
        f"{CLASSIFIER}data: {{augment.hflip: 0.1, resize: 300, image_size: 200}}\nprofiles: {{mini: {{data.image_size: 64}}}}\n"
    )
    Path("x.yaml").write_text(f"base: old\n{DETECTION}")
    assert load_recipe("x.yaml").data.augment.hflip == 0.1  # of the base, which is a classifier's
    rendered = load_recipe("coco_retinanet_1x", "pvt_tiny", "mini", ["data.name=coco"])
    assert rendered.data.image_size == 128  # of the profile, which renders scenes
    detr = load_recipe("coco_detr_50e", "pvt_small", overrides=["model.head={name: retinanet}"])
    assert detr.model.head is not None
    assert "num_queries" not in detr.model.head.model_dump()


def test_a_flat_recipe_says_everything_and_reads_back() -> None:
    recipe = load_recipe("coco_mask_rcnn_1x", "pvt_tiny", "mini", ["data.name=coco"])
    Path("recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    assert load_recipe("recipe.yaml") == recipe
    with pytest.raises(RecipeFaults, match=r"data\.resize: is for classification"):
        load_recipe("recipe.yaml", overrides=["data.resize=300"])


def test_a_backbone_alone_means_the_main_table() -> None:
    for words, expected in {
        ("pvt_large", None): ("coco_retinanet_1x", "pvt_large"),
        ("pvt_v2_b3", "mask_rcnn"): ("coco_mask_rcnn_1x", "pvt_v2_b3"),
        ("pvt_small", "detr"): ("coco_detr_50e", "pvt_small"),
        ("resnet50_gc_r4", None): ("gcnet", "resnet50_gc_r4"),
        ("vit_small_patch32", "retinanet"): ("vit_vs_pvt", "vit_small_patch32"),
        ("pvt_small_scratch_1x", None): ("pretrained_vs_scratch", "pvt_small_scratch_1x"),
    }.items():
        assert find_row("coco", words[0], "detection", head=words[1]) == expected
    assert find_row("scenes", "pvt_tiny", "detection") == ("coco_retinanet_1x", "pvt_tiny")
    assert find_row("scenes", "pvt_tiny") == ("imagenet_pvt_v1", "pvt_tiny")
    with pytest.raises(UsageError, match="no recipe trains 'pvt_large' under detr on coco"):
        find_row("coco", "pvt_large", "detection", head="detr")
