"""The list of published files."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from pvtctl.io.normalization import HALF
from pvtctl.models.backbones import backbone_names
from pvtctl.weights.catalogue import detector_page, published, published_for, published_model
from pvtctl.weights.layouts import torchvision as names_torchvision


def test_names_are_unique_and_backbones_exist() -> None:
    entries = published()
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.file_name for entry in entries}) == len(entries)
    assert {entry.backbone for entry in entries} <= set(backbone_names())


def test_hash_digits_are_those_in_the_file_names() -> None:
    for entry in published():
        found = re.search(r"-([0-9a-f]{8})\.pth?$", entry.url)
        assert entry.sha256 == (found.group(1) if found else None)


@pytest.mark.parametrize("name", ["pvt_small", "pvt_v2_b2_li", "deit_small_patch16", "resnet50", "resnext101_64x4d"])
def test_choice_for_a_backbone(name: str) -> None:
    entry = published_for(name)
    assert entry is not None
    assert entry.backbone == name


def test_classifiers_of_other_names_and_no_dense_models_start_a_backbone() -> None:
    names = {backbone: published_for(backbone) for backbone in ("vit_base_patch16", "vit_large_patch16", "vit_hybrid")}
    for backbone, entry in names.items():
        assert entry is not None
        assert (entry.backbone, entry.head, entry.normalization) == (backbone, None, HALF)
    resnet = published_for("resnet50")
    assert resnet is not None
    assert resnet.figures == {"top1": 76.130}


def test_dpts_figures_are_the_papers() -> None:
    dpt = {entry.name: entry for entry in published() if entry.head == "dpt"}
    assert len(dpt) == 6
    assert dpt["dpt_hybrid_ade20k"].figures == {"miou": 49.02, "pixel_acc": 83.11}
    assert dpt["dpt_large_midas"].figures["sintel_abs_rel"] == 0.270
    assert dpt["dpt_hybrid_kitti"].figures["silog"] == 8.282
    assert {entry.normalization for entry in dpt.values()} == {HALF}
    assert {name for name, entry in dpt.items() if entry.scale_shift} == {"dpt_hybrid_kitti", "dpt_hybrid_nyu"}


def test_published_dense_models_by_data() -> None:
    entry = published_model("vit_hybrid", "dpt", "nyu")
    assert entry is not None
    assert (entry.name, entry.scores) == ("dpt_hybrid_nyu", "delta1 0.904, delta2 0.988")
    assert published_model("vit_hybrid", "dpt", "masks") is None
    assert published_model("vit_hybrid", None, "nyu") is None
    assert published_model("resnet50", "midas", "nyu") is None


def test_backbones_that_nobody_published() -> None:
    assert published_for("pvt_huge") is None


def test_torchvision_entries_are_torchvisions() -> None:
    """Addresses and accuracies come from torchvision's own tables; V1 is the version without a suffix."""
    import torchvision

    ours = {entry.name: entry for entry in published() if entry.source.startswith("torchvision")}
    assert len(ours) == 11
    for name, entry in ours.items():
        version = "IMAGENET1K_V2" if name.endswith("_v2") else "IMAGENET1K_V1"
        weights = torchvision.models.get_model_weights(entry.backbone)[version]
        assert (entry.url, entry.figures["top1"]) == (weights.url, weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])


def test_catalogue_and_download_load_without_torch() -> None:
    code = "import sys, pvtctl.weights.catalogue, pvtctl.weights.download, pvtctl.cli.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_detectors_are_offered() -> None:
    for backbone in ("pvt_large", "pvt_v2_b0"):
        page = detector_page(backbone, "retinanet")
        assert page is not None
        assert "whai362/PVT" in page
    found = [detector_page("resnet50", head) for head in ("retinanet", "mask_rcnn", "detr")]
    assert all(page is not None and page.startswith("https://") for page in found)
    assert found[:2] == [weights["COCO_V1"].url for weights in _torchvisions_detectors()]
    assert detector_page("vit_small_patch4", "retinanet") is None


def _torchvisions_detectors() -> list[Any]:
    from torchvision.models import get_model_weights

    return [get_model_weights(f"{kind}_resnet50_fpn") for kind in ("retinanet", "maskrcnn")]


def test_batch_norms_without_eps_are_told_by_torchvisions_hashes() -> None:
    digits = [weights["COCO_V1"].url.rsplit("-", 1)[1].removesuffix(".pth") for weights in _torchvisions_detectors()]
    assert tuple(digits) == names_torchvision.PUBLISHED_SHA256
