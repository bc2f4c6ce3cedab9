"""Backbones scaled in width, `NAME@F`: widths that fit the heads, shapes, what is refused, and checkpoints of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pvtctl.cost.counting import count
from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.detector import build_detector
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.registry import backbone_spec, find_backbone
from pvtctl.models.variants import VARIANTS, PvtVariant, VitVariant, scaled
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.save import save_safetensors

SPECS = [
    "pvt_small@0.25",
    "pvt_small_wide@0.25",
    "pvt_v2_b2_li@0.1",
    "vit_small_patch32@0.25",
    "deit_tiny_patch16@0.3",
    "vit_hybrid@0.25",
    "resnet18@0.25",
    "resnet18c@0.5",
    "resnet50@0.375",
    "resnet50s@0.25",
    "resnet50_gc_r4@0.25",
    "resnext50_32x4d@0.25",
]


@pytest.mark.parametrize("spec", SPECS)
def test_scaled_models_keep_the_contract(spec: str) -> None:
    variant = backbone_spec(spec)
    whole = backbone_spec(spec.partition("@")[0])
    assert variant.params is None
    assert all(a < b for a, b in zip(variant.channels, whole.channels, strict=True))
    torch.manual_seed(0)
    model = build_classifier(spec, num_classes=3, image_size=64).eval()
    with torch.inference_mode():
        maps = model.backbone(torch.randn(1, 3, 75, 101))
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    assert tuple(x.shape[1] for x in maps) == variant.channels == model.backbone.feature_channels
    assert all(x.isfinite().all() for x in maps)


@pytest.mark.parametrize("factor", [0.01, 0.1, 0.3, 0.7, 0.999])
def test_widths_are_multiples_of_the_heads(factor: float) -> None:
    for name in ("pvt_small", "pvt_small_wide", "pvt_v2_b0"):
        variant = scaled(name, VARIANTS[name], factor)
        assert isinstance(variant, PvtVariant)
        assert all(
            dim >= heads and dim % heads == 0 for dim, heads in zip(variant.embed_dims, variant.num_heads, strict=True)
        )
    vit = scaled("vit_small_patch4", VARIANTS["vit_small_patch4"], factor)
    assert isinstance(vit, VitVariant)
    assert vit.embed_dim % vit.num_heads == 0


@pytest.mark.parametrize("spec", ["vit_hybrid", "vit_hybrid@0.25", "vit_hybrid@0.1"])
def test_hybrids_norms_have_groups_of_two_channels_at_least(spec: str) -> None:
    with without_values():
        norms = [part for part in build_backbone(spec).modules() if isinstance(part, torch.nn.GroupNorm)]
    assert min(norm.num_channels // norm.num_groups for norm in norms) == 2
    assert ({norm.num_groups for norm in norms} == {32}) == (spec == "vit_hybrid")


def test_the_whole_width_is_the_model_itself() -> None:
    assert backbone_spec("pvt_small@1") is backbone_spec("pvt_small")
    assert find_backbone("timm:resnet18") is None
    assert find_backbone("nothing@0.5") is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pvt_small@0", "'0' is not a width factor"),
        ("pvt_small@8.5", "'8.5' is not a width factor"),
        ("pvt_small@x", "'x' is not a width factor"),
        ("pvt_small@", "'' is not a width factor"),
        ("pvt_smal@0.5", "no backbone is called 'pvt_smal'"),
        ("resnext50_32x4d@0.1", "groups of less than one channel"),
    ],
)
def test_what_cannot_be_scaled_is_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone(spec)


def test_a_scaled_model_is_counted() -> None:
    cost = count("pvt_small@0.25", (224, 224))
    assert cost.backbone == "pvt_small@0.25"
    assert cost.macs < count("pvt_small", (224, 224)).macs / 8


def test_a_checkpoint_tells_its_width(tmp_path: Path) -> None:
    file = tmp_path / "narrow.safetensors"
    source = build_classifier("pvt_tiny@0.25", num_classes=3, image_size=64)
    save_safetensors(file, source, {"backbone": "pvt_tiny@0.25", "class_names": ["a", "b", "c"]})
    found = inspect_checkpoint(file)
    assert (found.backbone, found.position_size) == ("pvt_tiny@0.25", 64)
    with pytest.raises(UsageError, match=r"holds pvt_tiny@0\.25, not pvt_tiny"):
        inspect_checkpoint(file, "pvt_tiny")
    detector = build_detector("pvt_tiny@0.25", "retinanet", num_classes=2, width=16)
    assert load_checkpoint(detector, file).backbone_share == 1.0
    assert torch.equal(
        detector.backbone.state_dict()["stages.3.blocks.1.mlp.fc1.weight"],
        source.backbone.state_dict()["stages.3.blocks.1.mlp.fc1.weight"],
    )


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_a_detector_of_another_width_is_built_again(head: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_detector("resnet18@0.25", head, num_classes=2, width=24).eval()
    save_safetensors(tmp_path / "best.safetensors", model, {"backbone": "resnet18@0.25", "class_names": ["a", "b"]})
    found = inspect_checkpoint(tmp_path / "best.safetensors")
    assert found.detector is not None
    assert found.detector.options == {"width": 24}
    again = build_detector(found.backbone, found.detector.head, num_classes=2, **found.detector.options).eval()
    load_checkpoint(again, tmp_path / "best.safetensors")
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(model.features(images), again.features(images), strict=True))
        assert len(again(images)) == 1


def test_detr_has_no_width() -> None:
    with pytest.raises(UsageError, match="detr has no width"):
        build_detector("pvt_tiny", "detr", num_classes=2, width=64)
