"""Published layouts of segmentation and depth models, from the names and shapes in the parity kit's manifests alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtctl.data.class_names import ADE20K_CLASSES, PASCAL_CONTEXT_CLASSES
from pvtctl.io.checkpoint_meta import CheckpointMeta
from pvtctl.io.normalization import HALF, IMAGENET
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.files.pixels import Pixels, stated_pixels
from pvtctl.weights.identify import HeadInfo, identify_head
from pvtctl.weights.inspect import image_size_of
from pvtctl.weights.layouts.unsupported import unsupported_model
from pvtctl.weights.recognise import convert_state, identify, to_publisher

PROJECT = {"readout": "project"}
# manifest -> layout, backbone, head, task, options, output stride
LAYOUTS: dict[str, tuple[str, str, str, str, dict[str, Any], int | None]] = {
    "sem_fpn_pvt_small": ("mmsegmentation Semantic FPN", "pvt_small", "semantic_fpn", "segmentation", {}, None),
    "sem_fpn_r50v1c": ("mmsegmentation Semantic FPN", "resnet50c", "semantic_fpn", "segmentation", {}, None),
    "deeplabv3plus_r50_d8": (
        "mmsegmentation DeepLabV3+",
        "resnet50c",
        "deeplabv3plus",
        "segmentation",
        {"width": 512, "projection": 3},
        8,
    ),
    "trans2seg_r50c_medium": (
        "Trans2Seg",
        "resnet50s",
        "trans2seg",
        "segmentation",
        {"embed_dim": 256, "depth": 4, "num_heads": 8},
        16,
    ),
    "dpt_large_depth": ("isl-org DPT", "vit_large_patch16", "dpt", "depth", PROJECT, None),
    "dpt_large_seg": ("isl-org DPT", "vit_large_patch16", "dpt", "segmentation", PROJECT, None),
    "dpt_hybrid_depth": ("isl-org DPT", "vit_hybrid", "dpt", "depth", PROJECT, None),
    "dpt_hybrid_seg": ("isl-org DPT", "vit_hybrid", "dpt", "segmentation", PROJECT, None),
}


def _shapes(shared: Path, name: str) -> dict[str, Tensor]:
    manifest = json.loads((shared / "parity" / "manifests" / f"{name}.json").read_text())
    return {
        key: torch.empty(shape, device="meta")
        for key, shape, dtype, _ in manifest["entries"]
        if dtype == "float32" or key.endswith("num_batches_tracked")
    }


def _model(found: HeadInfo) -> DenseModel:
    more: dict[str, Any] = {"output_stride": found.output_stride} if found.output_stride else {}
    if found.backbones[0].startswith("vit"):
        more["image_size"] = 384
    with without_values():
        if found.task == "depth":
            head: Any = found.head
            return build_depth_model(found.backbones[0], head, head_options=found.options, backbone_options=more)
        options = found.options | ({"auxiliary_weight": 0.4} if found.head == "deeplabv3plus" else {})
        head = found.head
        return build_segmenter(
            found.backbones[0], head, num_classes=found.num_classes, head_options=options, backbone_options=more
        )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_recognised_and_renamed(name: str, shared: Path) -> None:
    layout, backbone, head, task, options, stride = LAYOUTS[name]
    converted = convert_state(_shapes(shared, name))
    found = identify_head(converted.state, converted.format)
    assert converted.format == layout
    assert found is not None
    assert (found.backbones, found.head, found.task, found.options) == ([backbone], head, task, options)
    assert found.output_stride == stride
    pixels = stated_pixels(CheckpointMeta(), converted.format, None, None)
    assert pixels == Pixels(HALF if head == "dpt" else IMAGENET, f"as all of {layout}")
    assert found.num_classes == (1 if task == "depth" else 12 if head == "trans2seg" else 150)
    assert found.class_names == (list(ADE20K_CLASSES) if found.num_classes == 150 else None)
    if head == "dpt":
        assert image_size_of(converted.state) == 384
    ours = {key: value.shape for key, value in _model(found).state_dict().items()}
    theirs = {key: value.shape for key, value in converted.state.items()}
    counters = {key for key in ours if key.endswith("num_batches_tracked")}
    assert {key: shape for key, shape in ours.items() if key not in counters} == {
        key: shape for key, shape in theirs.items() if key in ours and key not in counters
    }
    rest = {key for key in theirs if key not in ours and not key.startswith("pretrained.model.")}
    assert not {key for key in rest if not key.startswith(("scratch.refinenet4.resConfUnit1.", "backbone.norm."))}


@pytest.mark.parametrize("name", ["sem_fpn_pvt_small", "sem_fpn_r50v1c", "deeplabv3plus_r50_d8"])
def test_mmsegmentations_names_come_back(name: str, shared: Path) -> None:
    original = _shapes(shared, name)
    back = to_publisher(convert_state(original).state)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in original.items()}


def test_deep_stem_of_openmmlabs_classifier(shared: Path) -> None:
    dense = _shapes(shared, "sem_fpn_r50v1c")
    classifier = {key.removeprefix("backbone."): value for key, value in dense.items() if key.startswith("backbone.")}
    converted = convert_state(classifier | {"fc.weight": torch.empty(1000, 2048), "fc.bias": torch.empty(1000)})
    assert "head.weight" in converted.state
    assert identify(converted.state) == ["resnet50c"]


def test_wrappers_are_taken_off(shared: Path) -> None:
    original = {f"module.{key}": value for key, value in _shapes(shared, "dpt_hybrid_depth").items()}
    assert convert_state(original).format == "isl-org DPT"


@pytest.mark.parametrize(
    ("classes", "names"), [(60, PASCAL_CONTEXT_CLASSES), (59, PASCAL_CONTEXT_CLASSES[1:]), (7, None)]
)
def test_classes_by_their_number(classes: int, names: tuple[str, ...] | None) -> None:
    with without_values():
        state = build_segmenter("pvt_v2_b0", "semantic_fpn", num_classes=classes).state_dict()
    found = identify_head(state, "mmsegmentation Semantic FPN")
    assert found is not None
    assert found.class_names == (list(names) if names else None)
    ours = identify_head(state)
    assert ours is not None
    assert ours.class_names is None  # our files say theirs


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("decode_head.psp_modules.0.1.conv.weight", "UPerNet or PSPNet"),
        ("decode_head.conv_seg.weight", "another segmentation model of mmsegmentation"),
        ("scratch.refinenet4.out_conv.weight", "another model of MiDaS' or DPT's authors"),
        ("neck.reassemble_stage.layers.0.projection.weight", "transformers' DPT over another backbone"),
    ],
)
def test_models_of_others_are_named(name: str, what: str) -> None:
    state = {name: torch.zeros(1)}
    assert what in str(unsupported_model(state))
    assert identify_head(state, "unknown") is None
