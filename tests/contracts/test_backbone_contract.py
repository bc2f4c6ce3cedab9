"""What every backbone family promises, tried on narrow models. A new family adds one class at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import (
    Backbone,
    Classifier,
    Pvt,
    PvtV2,
    ResNet,
    TimmBackbone,
    Vit,
    VitHybrid,
    layer_depths,
    set_activation_checkpointing,
)
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.variants import Four

SIZES = [(32, 32), (32, 96), (225, 300), (112, 448), (448, 448), (800, 352)]


def images(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


class BothForms(nn.Module):
    """Logits and maps in one graph, whose common layers torch.export traces once: it takes 50 ms an operation."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in common_layers(self.classifier.backbone):
                patch.setattr(owner, name, once(getattr(owner, name)))
            return self.classifier(x), *self.classifier.backbone(x)


def common_layers(backbone: Any) -> list[tuple[Any, str]]:
    """The methods that the maps and the vector for a classifier have in common, each with its owner."""
    if isinstance(backbone, Pvt):
        return [(backbone, "_stages")]
    body = backbone.model.body if isinstance(backbone, TimmBackbone) else backbone
    if not hasattr(body, "blocks"):
        return [(backbone, "forward")]
    embed = [(body, "_embed")] if isinstance(body, Vit) else [(body.patch_embed, "forward"), (body, "_pos_embed")]
    return [*embed, *((block, "forward") for block in body.blocks)]


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which is called once for the same tensor."""
    found: dict[Tensor, Any] = {}

    def called(x: Tensor, *others: Any) -> Any:
        if x not in found:
            found[x] = function(x, *others)
        return found[x]

    return called


class BackboneContract(ABC):
    rounds_up: bool
    can_checkpoint = True
    exports_open_sides = True
    """torch.export with unknown height and width, not only an unknown batch."""

    @abstractmethod
    def build(self) -> Backbone:
        """A narrow model, ready to classify."""

    def shallow(self) -> Backbone:
        """A model for tracing, with one block of each kind."""
        return self.build()

    def seeded(self) -> Backbone:
        torch.manual_seed(0)
        return self.build()

    @pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
    def test_gives_four_finite_maps_at_any_size(self, size: tuple[int, int]) -> None:
        model = self.seeded().eval()
        with torch.inference_mode():
            maps = model(images(1, *size))
        rounded = math.ceil if self.rounds_up else math.floor
        assert [tuple(x.shape) for x in maps] == [
            (1, channels, rounded(size[0] / stride), rounded(size[1] / stride))
            for channels, stride in zip(model.feature_channels, model.feature_strides, strict=True)
        ]
        assert all(x.isfinite().all() for x in maps)
        assert model.feature_strides == (4, 8, 16, 32)

    def test_images_of_a_batch_do_not_see_each_other(self) -> None:
        model = self.seeded().eval()
        batch = images(3, 64, 96)
        with torch.inference_mode():
            together = [*model(batch), model.pooled(batch)]
            apart = [[*model(one), model.pooled(one)] for one in batch.split(1)]
        for at, x in enumerate(together):
            torch.testing.assert_close(x, torch.cat([one[at] for one in apart]), rtol=1e-4, atol=1e-5)

    def test_memory_layout_of_images_does_not_matter(self) -> None:
        model = self.seeded().eval()
        batch = images(2, 65, 96)
        with torch.inference_mode():
            for x, y in zip(model(batch), model(batch.contiguous(memory_format=torch.channels_last)), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)

    def test_cpu_kernels_agree(self) -> None:
        model = self.seeded().eval()
        batch = images(2, 128, 96)
        plain = [x.detach() for x in model(batch)]
        names = list(model.state_dict())
        optimize_for_cpu(model)
        assert list(model.state_dict()) == names
        with torch.inference_mode():
            inference = model(batch)
        for fast in (inference, model(batch)):
            for x, y in zip(fast, plain, strict=True):
                torch.testing.assert_close(x.detach(), y, rtol=1e-4, atol=1e-5)

    def test_pooled_vector_feeds_a_classifier(self) -> None:
        model = self.seeded().eval()
        classifier = Classifier(model, 5).eval()
        with torch.inference_mode():
            assert model.pooled(images(2, 64, 64)).shape == (2, model.num_features)
            assert classifier(images(2, 64, 64)).shape == (2, 5)

    def test_every_parameter_learns(self) -> None:
        model = Classifier(self.seeded(), 5).train()
        nn.functional.cross_entropy(model(images(4, 64, 64)), torch.arange(4)).backward()
        idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not idle
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_seed_decides_the_starting_weights(self) -> None:
        first, second = self.seeded().state_dict(), self.seeded().state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)
        different = self.build().state_dict()
        assert any(not torch.equal(first[key], different[key]) for key in first)

    def test_state_dict_round_trip(self) -> None:
        model, other = self.seeded().eval(), self.build().eval()
        other.load_state_dict(model.state_dict())
        with torch.inference_mode():
            for x, y in zip(model(images(1, 64, 64)), other(images(1, 64, 64)), strict=True):
                assert torch.equal(x, y)

    def test_bad_images_are_refused(self) -> None:
        model = self.seeded()
        with pytest.raises(UsageError, match="31x64 are too small"):
            model(images(1, 31, 64))
        with pytest.raises(UsageError, match=r"shape \(1, 1, 64, 64\)"):
            model(torch.zeros(1, 1, 64, 64))

    def test_layer_depths_rise_towards_the_head(self) -> None:
        depths, head = layer_depths(Classifier(self.seeded(), 5))
        assert depths["head.weight"] == head
        assert set(depths.values()) == set(range(head + 1))

    def test_checkpointing_changes_no_gradient(self) -> None:
        model = Classifier(self.seeded(), 5).train()
        if not self.can_checkpoint:
            with pytest.raises(UsageError, match="activation checkpointing is not available"):
                set_activation_checkpointing(model, True)
            return
        grads = []
        for on in (False, True):
            set_activation_checkpointing(model, on)
            model.zero_grad()
            model(images(2, 64, 64)).square().sum().backward()
            grads.append([parameter.grad.clone() for parameter in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))

    def test_exported_model_equals_eager(self) -> None:
        torch.manual_seed(0)
        model = Classifier(self.shallow(), 5).eval()
        batch = images(2, 64, 96)
        with torch.no_grad():
            exported = torch.export.export(model, (batch,)).module()
            torch.testing.assert_close(exported(batch), model(batch), rtol=1e-4, atol=1e-5)

    def test_exported_model_takes_other_batches_and_sizes(self) -> None:
        """Also odd ones, those of a position table's own grid, and in both tasks' forms."""
        open_sides = {0: torch.export.Dim.AUTO}
        if self.exports_open_sides:
            open_sides |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        torch.manual_seed(0)
        model = BothForms(Classifier(self.shallow(), 5)).eval()
        with torch.no_grad():
            example = (images(2, 128, 96),)
            exported = torch.export.export(model, example, dynamic_shapes=(open_sides,), strict=False).module()
            sizes = ((64, 64), (101, 75), (96, 160), (224, 224)) if self.exports_open_sides else ((128, 96),)
            for size in sizes:
                batch = images(3, *size)
                expected = (model.classifier(batch), *model.classifier.backbone(batch))
                torch.testing.assert_close(exported(batch), expected, rtol=1e-4, atol=1e-5)


class TestPvt(BackboneContract):
    rounds_up = False

    def build(self, depths: Four = (1, 2, 1, 1)) -> Backbone:
        return Pvt(
            embed_dims=(8, 16, 24, 32),
            depths=depths,
            num_heads=(1, 2, 3, 4),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(8, 4, 2, 1),
            class_token=True,
            image_size=64,
        )

    def shallow(self) -> Backbone:
        return self.build(depths=(1, 0, 0, 1))


class TestPvtV2(BackboneContract):
    rounds_up = True

    def build(self, depths: Four = (1, 2, 1, 1)) -> Backbone:
        return PvtV2(
            embed_dims=(8, 16, 24, 32),
            depths=depths,
            num_heads=(1, 2, 3, 4),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(8, 4, 2, 1),
        )

    def shallow(self) -> Backbone:
        return self.build(depths=(1, 0, 0, 1))


class TestPvtV2Linear(BackboneContract):
    rounds_up = True

    def build(self, depths: Four = (1, 1, 1, 1)) -> Backbone:
        return PvtV2(
            embed_dims=(8, 16, 24, 32),
            depths=depths,
            num_heads=(1, 2, 3, 4),
            mlp_ratios=(2, 2, 2, 2),
            sr_ratios=(8, 4, 2, 1),
            linear_sra=True,
        )

    def shallow(self) -> Backbone:
        return self.build(depths=(1, 0, 0, 1))


class TestVit(BackboneContract):
    rounds_up = False

    def build(self) -> Backbone:
        return Vit(
            patch_size=16,
            embed_dim=16,
            depth=4,
            num_heads=2,
            mlp_ratio=2,
            qkv_bias=False,
            norm_eps=1e-6,
            class_token=True,
            image_size=64,
        )


class TestDistilledVit(BackboneContract):
    rounds_up = False

    def build(self) -> Backbone:
        return Vit(
            patch_size=16,
            embed_dim=16,
            depth=4,
            num_heads=2,
            mlp_ratio=2,
            qkv_bias=True,
            norm_eps=1e-6,
            class_token=True,
            distilled=True,
            image_size=64,
        )


class TestVitHybrid(BackboneContract):
    rounds_up = True
    exports_open_sides = False  # they work, but "same" padding of unknown sides takes torch.export six minutes

    def build(self, stem_blocks: tuple[int, int, int] = (1, 2, 1)) -> Backbone:
        return VitHybrid(
            embed_dim=16,
            depth=4,
            num_heads=2,
            mlp_ratio=2,
            stem_blocks=stem_blocks,
            stem_widths=(32, 64, 128),
            class_token=True,
            image_size=64,
        )

    def shallow(self) -> Backbone:
        return self.build(stem_blocks=(1, 1, 1))


class TestResNet(BackboneContract):
    rounds_up = True
    can_checkpoint = False

    def build(self) -> Backbone:
        return ResNet(block="basic", depths=(1, 1, 1, 1), base_width=8)


class TestTimm(BackboneContract):
    rounds_up = True

    def build(self) -> Backbone:
        pytest.importorskip("timm", reason="needs the timm extra")
        return TimmBackbone("test_resnet")


class TestTimmClassifier(BackboneContract):
    """timm's whole model: `pooled` is what its own last layer takes."""

    rounds_up = True
    exports_open_sides = False

    def build(self) -> Backbone:
        pytest.importorskip("timm", reason="needs the timm extra")
        return TimmBackbone("test_vit", classifier=True)
