"""mmsegmentation's names and ours: all of them, both ways, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_backbone
from pvtctl.models.dense import build_segmenter
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.layouts import mmseg as names_mmseg
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.recognise import convert_state

MODELS = {
    "sem_fpn_r50v1c": ("mmsegmentation Semantic FPN", "semantic_fpn", {}),
    "deeplabv3plus_r50_d8": (
        "mmsegmentation DeepLabV3+",
        "deeplabv3plus",
        {"width": 512, "projection": 3, "auxiliary_weight": 0.4},
    ),
}


def state_of(golden: str, shared: Path) -> dict[str, Tensor]:
    entries = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())["entries"]
    return {key: torch.empty(shape, device="meta") for key, shape, _, _ in entries}


@pytest.mark.parametrize("golden", MODELS)
def test_every_name_both_ways(golden: str, shared: Path) -> None:
    theirs = state_of(golden, shared)
    format, head, options = MODELS[golden]
    converted = convert_state(theirs)
    assert converted.format == format
    with without_values():
        ours = build_segmenter("resnet50c", head, num_classes=150, head_options=options).state_dict()  # type: ignore[arg-type]
    assert {k: v.shape for k, v in converted.state.items()} == {k: v.shape for k, v in ours.items()}
    assert set(names_mmseg.to_mmseg(converted.state)) == set(theirs)


def test_pvt_under_semantic_fpn(shared: Path) -> None:
    theirs = state_of("sem_fpn_pvt_small", shared)
    converted = convert_state(theirs)
    with without_values():
        ours = build_segmenter("pvt_small", "semantic_fpn", num_classes=150).state_dict()
    assert set(converted.state) == set(ours)
    above = {key for key in theirs if not key.startswith("backbone.")}
    assert {key for key in names_mmseg.to_mmseg(ours) if not key.startswith("backbone.")} == above


def test_neither_is_taken_for_the_other(shared: Path) -> None:
    fpn, deeplab = (set(state_of(golden, shared)) for golden in MODELS)
    assert names_mmseg.SEMANTIC_FPN.fits(fpn)
    assert names_mmseg.DEEPLABV3PLUS.fits(deeplab)
    assert not names_mmseg.SEMANTIC_FPN.fits(deeplab)
    assert not names_mmseg.DEEPLABV3PLUS.fits(fpn)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_backbone_of_openmmlab_with_a_deep_stem_alone(prefix: str) -> None:
    """`resnet50_v1c`, what their dense models start from."""
    torch.manual_seed(0)
    source, target = build_backbone("resnet50c@0.25"), build_backbone("resnet50c@0.25")
    theirs = {
        f"{prefix}{key.removeprefix('backbone.')}": value
        for key, value in names_mmseg.to_mmseg({f"backbone.{k}": v for k, v in source.state_dict().items()}).items()
    }
    assert f"{prefix}stem.6.weight" in theirs
    load_checkpoint(target, theirs)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())
    with pytest.raises(UsageError):
        load_checkpoint(build_backbone("resnet50@0.25"), theirs)
