"""Freezing parts of a backbone: the same promises for every family, timm's and users' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Backbone, TimmBackbone, build_backbone
from pvtctl.models.backbones.freezing import count_frozen, freeze, parts_by_outputs
from pvtctl.models.parts import part_with, require_freezable
from pvtctl.models.registry import BackboneOptions, BackboneSpec, register, registered, unregister

FAMILIES = ["pvt_tiny@0.125", "pvt_v2_b0@0.25", "resnet18@0.25", "deit_tiny_patch16@0.34", "vit_base_patch16@0.0834"]


def built(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, image_size=64) if not name.startswith("timm:") else build_backbone(name)


def images(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def kept_bytes(model: Backbone) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, without parameters."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = model.train()(images())
    assert len(maps) == 4
    return sum(kept.values())


@pytest.mark.parametrize("name", FAMILIES)
class TestEveryFamily:
    def test_nothing_is_kept_for_a_frozen_backbone(self, name: str) -> None:
        model = built(name)
        freeze(model, ["backbone"])
        assert kept_bytes(model) == 0
        assert not any(one.requires_grad for one in model(images()))
        assert not any(module.training for module in model.modules())
        assert count_frozen(model)[0] == count_frozen(model)[1] > 0

    def test_the_graph_does_not_reach_frozen_stages(self, name: str) -> None:
        whole, model = kept_bytes(built(name)), built(name)
        freeze(model, ["stem", "stage1", "stage2"])
        assert 0 < kept_bytes(model) < 0.8 * whole
        maps = model(images())
        assert [one.requires_grad for one in maps] == [False, False, True, True]
        torch.stack([one.sum() for one in maps[2:]]).sum().backward()
        graded = {part_with(key, model.parts) for key, each in model.named_parameters() if each.grad is not None}
        assert {"stage3", "stage4"} <= graded <= {"stage3", "stage4", None}

    def test_frozen_norms(self, name: str) -> None:
        model = built(name).train()
        freeze(model, ["backbone.norms"])
        fixed = {key for key, each in model.named_parameters() if not each.requires_grad}
        assert fixed
        assert not [key for key in fixed if model.get_parameter(key).ndim > 1]
        modules = [each for each in model.train().modules() if "norm" in type(each).__name__.lower()]
        assert modules
        assert not any(each.training for each in modules)

    def test_what_does_not_exist(self, name: str) -> None:
        with pytest.raises(UsageError, match="has no stage5 to freeze") as caught:
            freeze(built(name), ["stage5"])
        assert "stage4" in (caught.value.hint or "")


def test_statistics_are_frozen_while_scale_and_shift_train() -> None:
    model = built("resnet18@0.25")
    freeze(model, ["backbone.statistics"])
    before = model.bn1.running_mean.clone()
    model.train()(images(2))
    assert torch.equal(model.bn1.running_mean, before)
    assert model.bn1.weight.requires_grad
    assert model.layer1.training


def test_resnets_options_are_the_same_freezing() -> None:
    torch.manual_seed(0)
    one, other = build_backbone("resnet18@0.25", frozen_stages=2, freeze_norm=True), built("resnet18@0.25")
    freeze(other, ["stem", "stage1", "stage2", "backbone.statistics"])
    trained = [{key for key, each in model.named_parameters() if each.requires_grad} for model in (one, other)]
    assert trained[0] == trained[1]
    modes = [{key: module.training for key, module in model.train().named_modules()} for model in (one, other)]
    assert modes[0] == modes[1]
    assert set(modes[0].values()) == {True, False}


def test_synchronised_norms_stay_frozen() -> None:
    model = nn.Sequential(built("resnet18@0.25"))
    freeze(model[0], ["stage1"])
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    assert not model[0].layer1[0].bn1.training
    assert model[0].layer2[0].bn1.training


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "regnetx_002", "test_vit", "test_efficientnet", "pvt_v2_b0"]
)
def test_timms_own_stages(name: str) -> None:
    pytest.importorskip("timm", reason="needs the timm extra")
    model = TimmBackbone(name, image_size=64)
    assert set(model.parts) == {"stem", "stage1", "stage2", "stage3", "stage4"}
    freeze(model, ["stem", "stage1", "stage2"])
    maps = model.train()(images())
    assert [one.requires_grad for one in maps] == [False, False, True, True]
    trained = {part_with(key, model.parts) for key, each in model.named_parameters() if each.requires_grad}
    assert {"stage3", "stage4"} <= trained <= {"stage3", "stage4", None}


def test_parts_of_a_net_with_other_module_names_are_unknown() -> None:
    assert parts_by_outputs(nn.Sequential(nn.Linear(1, 1)), ["a", "b", "c", "d"]) == {}


class Own(Backbone):
    def __init__(self) -> None:
        super().__init__((4, 4, 4, 4))
        sides = zip((3, 4, 4, 4), (4, 2, 2, 2), strict=True)
        self.steps = nn.ModuleList(nn.Conv2d(channels, 4, side, stride=side) for channels, side in sides)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[1:]


@pytest.mark.parametrize("declared", [True, False])
def test_a_users_backbone_has_the_parts_that_it_declares(declared: bool) -> None:
    stages: dict[str, Any] = {"stage_names": tuple((f"steps.{at}.",) for at in range(4))} if declared else {}
    before = registered()
    register(BackboneSpec(name="own", family="own", Options=BackboneOptions, build=lambda options: Own(), **stages))
    try:
        model = build_backbone("own")
    finally:
        unregister(registered() - before)
    if declared:
        freeze(model, ["stage1"])
        assert [each.requires_grad for each in model.steps.parameters()] == [False] * 2 + [True] * 6
    else:
        with pytest.raises(UsageError, match="has no stage1") as caught:
            freeze(model, ["stage1"])
        assert "backbone" in (caught.value.hint or "")
        freeze(model, ["backbone"])
        assert count_frozen(model) == (sum(p.numel() for p in model.parameters()),) * 2
    with pytest.raises(UsageError, match="has no stem"):
        freeze(model, ["stem"])


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(UsageError) as caught:
        require_freezable(["stage1.norm"], ["stem", "stage1"], "mine")
    assert "stage1.norms" in (caught.value.hint or "")
