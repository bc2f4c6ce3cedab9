"""Building by name: every variant's exact size, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone, Classifier, backbone_names, build_backbone, build_classifier
from pvtctl.models.layers.shapes import without_values
from pvtctl.models.variants import VARIANTS


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", backbone_names())
def test_table_agrees_with_the_built_classifier(name: str) -> None:
    with without_values():
        model = build_classifier(name)
    assert count(model) == VARIANTS[name].params
    assert model.backbone.feature_channels == VARIANTS[name].channels


def test_counts_are_the_published_ones() -> None:
    # the official code's counts (and timm's, torchvision's), as the manifests of the parity kit have them
    exact = {
        "pvt_tiny": 13_229_288,
        "pvt_small": 24_485_864,
        "pvt_medium": 44_208_104,
        "pvt_large": 61_369_320,
        "pvt_v2_b0": 3_666_760,
        "pvt_v2_b1": 14_009_000,
        "pvt_v2_b2": 25_362_856,
        "pvt_v2_b2_li": 22_553_512,
        "pvt_v2_b3": 45_238_696,
        "pvt_v2_b4": 62_556_072,
        "pvt_v2_b5": 81_956_008,
        "vit_small_patch16": 48_754_408,
        "deit_tiny_patch16": 5_717_416,
        "deit_small_patch16": 22_050_664,
        "resnet18": 11_689_512,
        "resnet50": 25_557_032,
    }
    assert {name: VARIANTS[name].params for name in exact} == exact
    # PVT v1 Table 9 prints 46.8 M for the wide model
    assert round(VARIANTS["pvt_small_wide"].params / 1e6, 1) == 46.8


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_small", "pvt_large", "pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b2_li"])
def test_dense_models_have_the_original_number_of_parameters(name: str, shared: Path) -> None:
    manifest = json.loads((shared / "parity" / "manifests" / f"{name}_pyramid.json").read_text())
    with without_values():
        assert count(build_backbone(name)) == manifest["total_params"]


def test_vit_small_backbone_counts_what_table_8_needs() -> None:
    # 60.826 M of RetinaNet less its neck and head leaves 49.642 M with the final norm; ours drops that norm's 1536
    with without_values():
        assert round(count(build_backbone("vit_small_patch32", class_token=True)) / 1e6, 3) == 49.642


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as fault:
        build_backbone("pvt_smal")
    assert fault.value.message == "no backbone is called 'pvt_smal'"
    assert "pvt_small" in (fault.value.hint or "")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("pvt_tiny", {"frozen_stages": 1}),
        ("pvt_tiny", {"freeze_norm": True}),
        ("pvt_v2_b0", {"class_token": True}),
        ("deit_tiny_patch16", {"frozen_stages": 1}),
        ("resnet18", {"drop_path_rate": 0.1}),
        ("resnet18", {"class_token": True}),
        ("timm:resnet18", {"freeze_norm": True}),
    ],
)
def test_option_of_another_family_is_refused(name: str, option: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{name} has no {next(iter(option))}"):
        build_backbone(name, **option)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path_rate": 1.0}, "drop_path_rate 1.0 is out of range"),
        ({"drop_path_rate": -0.1}, "drop_path_rate -0.1 is out of range"),
        ({"image_size": 16}, "image size 16 is too small"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_backbone("pvt_tiny", **options)


def test_a_backbone_is_named_by_a_word() -> None:
    with pytest.raises(UsageError, match="named by a word, not by a Linear"):
        build_backbone(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_unknown_option_is_an_error() -> None:
    with pytest.raises(UsageError, match="pvt_tiny has no dropout"):
        build_backbone("pvt_tiny", dropout=0.1)


def test_classifier_needs_a_class() -> None:
    with pytest.raises(UsageError, match="num_classes 0 is out of range"):
        build_classifier("pvt_tiny", num_classes=0)


def test_same_seed_gives_the_same_backbone_dense_or_classifying() -> None:
    torch.manual_seed(3)
    dense = build_backbone("pvt_v2_b0", drop_path_rate=0.2).state_dict()
    torch.manual_seed(3)
    classifier = build_classifier("pvt_v2_b0", num_classes=7).backbone.state_dict()
    assert all(torch.equal(dense[key], classifier[key]) for key in dense)


def test_frozen_resnet50_has_the_printed_trainable_count() -> None:
    # PVT v1 Table 3 prints trainable parameters: 225 344 fewer than all (stem and stage 1)
    with without_values():
        model = build_backbone("resnet50", frozen_stages=1, freeze_norm=True)
    assert sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad) == 225_344


def test_types() -> None:
    with without_values():
        model = build_classifier("pvt_v2_b0", num_classes=3)
    assert isinstance(model, Classifier)
    assert isinstance(model.backbone, Backbone)
    assert isinstance(model.head, torch.nn.Linear)
    assert model.head.out_features == 3
