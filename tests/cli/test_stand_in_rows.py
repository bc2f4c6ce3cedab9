"""A backbone that no table trains is trained as its family is, not as the first row of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pvtctl.cli._resolve_recipe import DataChoice, choose_recipe
from pvtctl.models import registry
from pvtctl.models.registry import backbone_spec, register


@pytest.fixture(autouse=True)
def variants() -> object:
    before = registry.registered()
    for name in ("pvt_v2_b2", "pvt_tiny", "resnet50", "vit_small_patch16"):
        register(replace(backbone_spec(name), name=f"my_{name}", at_width=None))
    yield
    registry.unregister(registry.registered() - before)


@pytest.mark.parametrize(
    ("backbone", "recipe"),
    [("my_pvt_v2_b2", "imagenet_pvt_v2"), ("my_pvt_tiny", "imagenet_pvt_v1"), ("my_resnet50", "imagenet_pvt_v1")],
)
def test_the_table_is_that_of_the_family(backbone: str, recipe: str) -> None:
    data = DataChoice("imagenet", Path("/data"))
    chosen = choose_recipe(data, backbone=backbone, recipe=None, profile=None, task="classification")
    assert (chosen.name, chosen.model.backbone.name, chosen.row, chosen.expect) == (recipe, backbone, None, {})


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize(
    ("backbone", "optimizer"), [("my_pvt_v2_b2", "adamw"), ("my_vit_small_patch16", "adamw"), ("my_resnet50", "sgd")]
)
def test_so_is_the_optimizer(backbone: str, optimizer: str, head: str) -> None:
    data = DataChoice("coco", Path("/data"))
    chosen = choose_recipe(data, backbone=backbone, recipe=None, profile=None, task="detection", head=head)
    assert (chosen.train.optimizer.name, chosen.paper, chosen.expect) == (optimizer, None, {})
