"""Recipes of segmentation and depth: settings that nothing reads, and settings that contradict, each told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.recipe.load import dump, keys_said, load_recipe
from pvtctl.recipe.source import RecipeFaults

MODEL = "model: {backbone.name: pvt_tiny, head.name: %s}\n"
SEGMENTATION = f"task: segmentation\ndata.name: ade20k\n{MODEL % 'semantic_fpn'}"
DPT = f"task: segmentation\ndata.name: ade20k\n{MODEL % 'dpt'}"
DEEPLAB = f"task: segmentation\ndata.name: ade20k\n{MODEL % 'deeplabv3plus'}"
DEPTH = f"task: depth\ndata.name: nyu\n{MODEL % 'dpt'}"
MIDAS = f"task: depth\ndata.name: nyu\n{MODEL % 'midas'}"
CLASSIFIER = "model.backbone.name: pvt_tiny\n"
DETECTION = "task: detection\ndata.name: coco\nmodel: {backbone.name: pvt_tiny, head.name: retinanet}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def faults_of(text: str, sets: tuple[str, ...] = ()) -> list[str]:
    Path("x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeFaults) as caught:
        load_recipe("x.yaml", overrides=sets)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # heads and data of another task
        (
            f"task: segmentation\ndata.name: ade20k\n{MODEL % 'midas'}",
            "model.head.name: midas is not a head for segmentation (x.yaml:3), it takes semantic_fpn or trans2seg or ",
        ),
        (
            f"task: depth\ndata.name: nyu\n{MODEL % 'semantic_fpn'}",
            "model.head.name: semantic_fpn is not a head for depth (x.yaml:3), it takes dpt or midas",
        ),
        (
            DETECTION.replace("retinanet", "dpt"),
            "model.head.name: dpt is not a head for detection (x.yaml:3), it takes ",
        ),
        (
            f"task: depth\ndata.name: nyu\n{CLASSIFIER}",
            "model.head: missing: depth needs model.head.name, dpt or midas (x.yaml:1)",
        ),
        (SEGMENTATION.replace("ade20k", "nyu"), "data.name: segmentation reads ade20k or pascal_context or "),
        (DEPTH.replace("nyu", "ade20k"), "data.name: depth reads nyu or kitti or depth or mix or scenes, not ade20k"),
        (SEGMENTATION.replace("ade20k", "mix"), "data.name: segmentation reads "),
        # depth
        (DEPTH.replace("nyu", "mix"), "data.depth.mix: missing: mix needs depth sets by name"),
        (
            f"{DEPTH}data.depth.mix: {{a: {{path: a}}}}\n",
            "data.depth.mix.a.path: is for data.name: mix, nyu is one set (x.yaml:4)",
        ),
        (
            f"{DEPTH}train.loss.name: silog\n",
            "train.loss.name: silog compares metres: it needs model.head.scale_shift (x.yaml:4), [3.05e-4, 0.1378]",
        ),
        (f"{SEGMENTATION}train.loss.name: silog\n", "train.loss.name: is for depth, segmentation does not read it"),
        (
            f"{SEGMENTATION}data.depth.scale: 1000\n",
            "data.depth.scale: is for depth, segmentation reads data.segmentation (x.yaml:4)",
        ),
        (
            f"{DEPTH}data.segmentation.align: 1\n",
            "data.segmentation.align: is for segmentation, depth reads data.depth (x.yaml:4)",
        ),
        (f"{SEGMENTATION}eval.alignment: median\n", "eval.alignment: is for depth, segmentation does not read it"),
        (f"{SEGMENTATION}eval.crop: eigen\n", "eval.crop: is for depth, segmentation does not read it (x.yaml:4)"),
        (f"{SEGMENTATION}eval.max_depth: 10\n", "eval.max_depth: is for depth, segmentation does not read it"),
        # windows, ratios
        (
            f"{SEGMENTATION}eval: {{window: [64, 96], stride: [64, 97]}}\n",
            "eval.stride: 64x97 is larger than the window of 64x96: pixels in between would be skipped (x.yaml:4)",
        ),
        (f"{SEGMENTATION}eval.stride: [64, 64]\n", "eval.stride: needs eval.window, the window that slides (x.yaml:4)"),
        (f"{DEPTH}eval.window: [64, 64]\n", "eval.window: is for segmentation, depth does not read it (x.yaml:4)"),
        (f"{CLASSIFIER}eval.ratios: [0.5]\n", "eval.ratios: is for segmentation and depth, classification does not"),
        (f"{DETECTION}eval.ratios: [0.5]\n", "eval.ratios: is for segmentation and depth, detection does not read it"),
        (f"{SEGMENTATION}eval.scales: [64]\n", "eval.scales: is for detection, segmentation does not read it"),
        # keys of other heads
        (f"{SEGMENTATION}model.head.projection: 3\n", "model.head.projection: is for deeplabv3plus, semantic_fpn has "),
        (
            f"task: segmentation\ndata.name: ade20k\n{MODEL % 'trans2seg'}model.head.width: 64\n",
            "model.head.width: is for retinanet and mask_rcnn and ",
        ),
        (f"{SEGMENTATION}model.head.taps: [3, 6, 9, 12]\n", "model.head.taps: is for dpt, semantic_fpn has none"),
        (f"{DEEPLAB}model.head.readout: add\n", "model.head.readout: is for dpt, deeplabv3plus has none (x.yaml:4)"),
        (f"{DEEPLAB}model.head.embed_dim: 64\n", "model.head.embed_dim: is for trans2seg, deeplabv3plus has none"),
        (f"{SEGMENTATION}model.head.auxiliary_weight: 0.2\n", "model.head.auxiliary_weight: is for deeplabv3plus and "),
        (f"{MIDAS}model.head.dropout: 0.1\n", "model.head.dropout: is for detr and semantic_fpn and trans2seg and "),
        (f"{DEPTH}model.head.dropout: 0.1\n", "model.head.dropout: is for segmentation, dpt has none for depth"),
        (f"{DEPTH}model.head.auxiliary_weight: 0.2\n", "model.head.auxiliary_weight: is for segmentation, dpt has "),
        (
            f"{DPT}model.head.scale_shift: [1, 0]\n",
            "model.head.scale_shift: is for depth, segmentation does not read it (x.yaml:4)",
        ),
        (f"{SEGMENTATION}model.head.num_queries: 9\n", "model.head.num_queries: is for detr, semantic_fpn has none"),
        (
            f"{DPT}model.head.neck.name: fpn\n",
            "model.head.neck.name: is for retinanet and mask_rcnn and semantic_fpn, dpt has none (x.yaml:4), "
            "dpt has dropout, width, auxiliary_weight, readout, taps, ",
        ),
        (
            f"{MIDAS}model.head: {{neck: {{levels: [2, 5]}}}}\n",
            "model.head.neck.levels: is for retinanet and mask_rcnn and semantic_fpn, midas has none (x.yaml:4), "
            "midas has width, scale_shift",
        ),
        (
            f"{MIDAS}model.head.nosuch: 9\n",
            "model.head.nosuch: unknown key (x.yaml:4), one of: width, scale_shift",
        ),
        # the rest
        (f"{SEGMENTATION}train: {{epochs: 3, iterations: 30}}\n", "train.epochs: train.iterations sets the length"),
        (
            f"{CLASSIFIER}data.normalization: halve\n",
            "data.normalization: 'halve' is not a mean and standard deviation",
        ),
        (f"{DETECTION}data.normalization: [0.5]\n", "data.normalization: should be a valid string"),
        (f"{CLASSIFIER}model.backbone.image_size: 384\n", "model.backbone.image_size: is for segmentation and depth, "),
        (
            f"{SEGMENTATION}data.image_size: 512\n",
            "data.image_size: is the size that scenes is rendered at; ade20k is ",
        ),
        (f"{SEGMENTATION}data.val_images: a\n", "data.val_images: is for coco, ade20k does not read it (x.yaml:4)"),
        (f"{DEPTH}data.resize: 256\n", "data.resize: is for classification, depth reads data.depth (x.yaml:4)"),
        (f"{DEPTH}data.depth.size: [0, 64]\n", "data.depth.size"),
        (f"{DEPTH}data.depth.scale: 0\n", "data.depth.scale: should be greater than 0"),
        (f"{SEGMENTATION}data.segmentation.cat_max_ratio: 1.5\n", "data.segmentation.cat_max_ratio: should be "),
    ],
)
def test_one_fault(text: str, fault: str) -> None:
    found = faults_of(text)
    assert len(found) == 1
    assert found[0].startswith(fault)


@pytest.mark.parametrize(
    "text",
    [
        f"{MIDAS}rows: {{a: {{model.head.nosuch: 9}}}}\n",
        f"{MIDAS}profiles: {{mini: {{model.head.nosuch: 9}}}}\n",
        f"{DPT}rows: {{a: {{task: depth, model.head: {{name: midas, nosuch: 9}}}}}}\n",
        f"{DPT}rows: {{a: {{task: depth, model.head.name: midas}}}}\nprofiles: {{mini: {{rows: {{a: {{model.head.nosuch: 9}}}}}}}}\n",
        "base: below\nmodel.head.nosuch: 9\n",
        "base: below\nrows: {a: {model.head.nosuch: 9}}\n",
    ],
)
def test_an_unknown_option_is_told_with_those_of_the_head_on_which_its_layer_lies(text: str) -> None:
    Path("below.yaml").write_text(MIDAS, encoding="utf-8")
    (found,) = faults_of(text)
    assert found.startswith("model.head.nosuch: unknown key (x.yaml:")
    assert found.endswith("), one of: width, scale_shift")


@pytest.mark.parametrize(
    "text",
    [
        f"{SEGMENTATION}eval: {{window: [64, 64], stride: [64, 64], ratios: [0.5, 1], flip: true}}\n",
        f"{DEPTH}model.head.scale_shift: [1, 0.1]\ntrain.loss.name: silog\neval: {{crop: garg, alignment: none}}\n",
        f"{DPT}model.head: {{dropout: 0.2, auxiliary_weight: 0.4, readout: add, taps: [3, R0, 9, 12]}}\n",
        f"{SEGMENTATION}train.iterations: 30\n",
        f"{MIDAS}data.normalization: half\n",
        f"{CLASSIFIER}data.normalization: clip\n",
        f"{DETECTION}data.normalization: mean=103.5,116.3,123.7 std=57,57,58 range=0..255 order=bgr\n",
        f"{DEPTH.replace('nyu', 'mix')}data.depth.mix: {{a: {{path: a, weight: 2}}, b: {{name: kitti, path: b}}}}\n",
    ],
)
def test_what_belongs_together_is_taken_and_reads_back(text: str) -> None:
    Path("x.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("x.yaml")
    Path("recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    assert load_recipe("recipe.yaml") == recipe


def test_a_later_word_on_epochs_wins_over_iterations_only_with_them() -> None:
    """A profile that says epochs says `iterations: null` too; on the command line alone it is a fault."""
    assert load_recipe("ade20k_semantic_fpn", "pvt_small", "mini").train.iterations is None
    with pytest.raises(RecipeFaults, match=r"train\.epochs: train\.iterations sets the length"):
        load_recipe("ade20k_semantic_fpn", "pvt_small", overrides=["train.epochs=3"])
    both = ["train.epochs=3", "train.iterations=null"]
    assert load_recipe("ade20k_semantic_fpn", "pvt_small", overrides=both).train.epochs == 3


def test_keys_that_are_said() -> None:
    said = keys_said(["data.depth={scale: 1000, size: [64, 64]}", ("train.epochs", 3), "eval.flip = true", "nonsense"])
    assert said == {"data.depth.scale", "data.depth.size", "train.epochs", "eval.flip"}
