"""ViTDet's simple pyramid, and levels of a pyramid as settings, by themselves and under the heads that read one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_backbone
from pvtctl.models.dense import build_segmenter
from pvtctl.models.detector import build_detector
from pvtctl.models.necks.simple_pyramid import SimplePyramid
from pvtctl.models.structures import Objects
from pvtctl.recipe.load import load_recipe
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.save import save_safetensors

VIT = "deit_tiny_patch16@0.34"
IMAGES = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def strides(maps: list[Tensor]) -> list[tuple[float, float]]:
    return [(64 / x.shape[2], 96 / x.shape[3]) for x in maps]


@pytest.fixture(scope="module")
def vit() -> Any:
    torch.manual_seed(0)
    return build_backbone(VIT).eval()


@pytest.mark.parametrize(
    ("levels", "extra"), [((2, 5), None), ((2, 6), "pool"), ((3, 6), "p6p7"), ((4, 5), None), ((2, 4), "pool")]
)
@torch.no_grad()
def test_each_level_has_its_stride(vit: Any, levels: tuple[int, int], extra: Any) -> None:
    neck = SimplePyramid(vit, extra=extra, levels=levels, out_channels=8)
    maps = neck(neck.read(vit, IMAGES))
    expected = [(math.ceil(64 / 2**level), math.ceil(96 / 2**level)) for level in range(levels[0], levels[1] + 1)]
    assert [tuple(x.shape[2:]) for x in maps] == expected
    assert {x.shape[1] for x in maps} == {8}


@torch.no_grad()
def test_all_levels_come_from_the_last_block(vit: Any) -> None:
    neck = SimplePyramid(vit, extra=None, levels=(2, 5), out_channels=8)
    (read,) = neck.read(vit, IMAGES)
    (last,) = vit.read_taps(IMAGES, [vit.depth])
    assert read.equal(last.map)
    # a shift by one cell of 16 pixels shifts the finest level by 4 cells, away from the border
    moved = neck([read.roll(1, 3)])[0]
    torch.testing.assert_close(moved[..., 9:-1], neck([read])[0].roll(4, 3)[..., 9:-1])


def test_parameters_are_those_of_the_paper(vit: Any) -> None:
    c, w = vit.embed_dim, 8
    neck = SimplePyramid(vit, extra=None, levels=(2, 5), out_channels=w)
    fine = (4 * c * (c // 2) + c // 2) + 2 * (c // 2) + (4 * (c // 2) * (c // 4) + c // 4)
    mid = 4 * c * (c // 2) + c // 2
    outputs = sum(width * w + 2 * w + 9 * w * w + 2 * w for width in (c // 4, c // 2, c, c))
    assert sum(p.numel() for p in neck.parameters()) == fine + mid + outputs


@torch.no_grad()
def test_patches_of_another_size_are_resized_to_stride_16() -> None:
    body = build_backbone("vit_small_patch32@0.125").eval()
    neck = SimplePyramid(body, extra=None, levels=(2, 5), out_channels=8)
    assert strides(neck(neck.read(body, IMAGES))) == [(4, 4), (8, 8), (16, 16), (32, 32)]


@pytest.mark.parametrize("backbone", [VIT, "pvt_v2_b0@0.25"])
@pytest.mark.parametrize(("head", "levels"), [("retinanet", (4, 6)), ("retinanet", (2, 5)), ("mask_rcnn", (3, 5))])
def test_detectors_train_and_detect_on_other_levels(backbone: str, head: str, levels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    neck = {"name": "simple_pyramid" if "vit" in backbone else "fpn", "levels": levels}
    model = build_detector(backbone, head, num_classes=2, width=16, neck=neck)
    boxes = torch.tensor([[4.0, 4, 60, 40], [30, 10, 90, 60]])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 4:40, 4:60] = masks[1, 10:60, 30:90] = True
    losses = model(IMAGES, targets=[Objects(boxes, torch.tensor([0, 1]), masks)])
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    # the first level's lateral, or its own convolutions, learn
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.neck.parameters())
    found = model.eval()(IMAGES)[0]
    assert (found.boxes[:, 2:] <= torch.tensor([96.0, 64.0])).all()


@torch.no_grad()
def test_semantic_fpn_takes_it_at_its_finest_level() -> None:
    model = build_segmenter(
        VIT,
        "semantic_fpn",
        num_classes=3,
        head_options={"width": 16, "neck": {"name": "simple_pyramid", "levels": (3, 5)}},
    ).eval()
    assert model(IMAGES).shape == (1, 3, 8, 12)


def test_a_checkpoint_keeps_its_neck(tmp_path: Path) -> None:
    """In the header, as shapes do not show levels."""
    options = {"width": 16, "neck": {"name": "simple_pyramid", "levels": (2, 5)}}
    model = build_detector(VIT, "retinanet", num_classes=2, **options).eval()
    meta = {
        "backbone": VIT,
        "task": "detection",
        "head": "retinanet",
        "num_classes": 2,
        "head_options": {"neck": options["neck"]},
    }
    save_safetensors(tmp_path / "m.safetensors", model.state_dict(), meta)
    again = model_from_checkpoint(inspect_checkpoint(tmp_path / "m.safetensors")).eval()
    with torch.no_grad():
        for one, other in zip(
            again.head.raw(again.features(IMAGES))[0], model.head.raw(model.features(IMAGES))[0], strict=True
        ):
            assert one.equal(other)


def test_recipes_name_a_neck() -> None:
    recipe = load_recipe(
        "coco_retinanet_1x",
        "pvt_small",
        overrides=["model.head.neck.name=simple_pyramid", "model.head.neck.levels=[3, 6]"],
    )
    assert recipe.model.head is not None
    assert recipe.model.head.said()["neck"] == {"name": "simple_pyramid", "levels": (3, 6)}


@pytest.mark.parametrize(
    ("head", "neck", "said"),
    [
        ("retinanet", {"name": "simple_pyramid"}, "plain ViT"),
        ("retinanet", {"name": "bifpn"}, "neck"),
        ("retinanet", {"levels": (5, 3)}, "levels"),
        ("retinanet", {"levels": (1, 5)}, "levels"),
        ("retinanet", {"depth": 3}, "neck"),
        ("detr", {"name": "fpn"}, "detr has no neck"),
    ],
)
def test_necks_that_do_not_fit(head: str, neck: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_detector("pvt_v2_b0@0.25", head, num_classes=2, neck=neck)


def test_levels_beyond_what_a_head_reads() -> None:
    with pytest.raises(UsageError, match="up to 5, not 6"):
        build_segmenter("pvt_v2_b0@0.25", "semantic_fpn", num_classes=2, head_options={"neck": {"levels": (2, 6)}})
    with pytest.raises(UsageError, match="torchvision"):
        build_detector("resnet18", "retinanet", num_classes=2, conventions="torchvision", neck={"levels": (2, 6)})
