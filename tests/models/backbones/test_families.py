"""What is particular to a family: class tokens, position tables, frozen parts, starting values."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Pvt, PvtV2, ResNet, Vit, build_backbone, layer_depths
from pvtctl.models.layers.shapes import without_values

NARROW = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 3, 4),
    "mlp_ratios": (2, 2, 2, 2),
    "sr_ratios": (8, 4, 2, 1),
}


class TestPvt:
    def test_dense_model_has_no_class_token_and_keeps_its_slot(self) -> None:
        model = Pvt(**NARROW, image_size=64)
        assert not [name for name in model.state_dict() if name.startswith(("class_token", "norm"))]
        assert model.state_dict()["stages.3.pos_embed"].shape == (1, 2 * 2 + 1, 32)
        assert model.state_dict()["stages.0.pos_embed"].shape == (1, 16 * 16, 8)

    def test_dense_slot_of_the_class_token_has_no_effect(self) -> None:
        model = Pvt(**NARROW, image_size=64).eval()
        image = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            before = model(image)[-1].clone()
            model.stages[3].pos_embed[:, 0] += 5
            assert torch.equal(model(image)[-1], before)

    def test_without_class_token_pooled_is_the_mean(self) -> None:
        model = Pvt(**NARROW, image_size=64).eval()
        image = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(model.pooled(image), model(image)[-1].mean((2, 3)))

    @pytest.mark.parametrize("size", [(448, 448), (896, 224), (112, 448)])
    def test_positions_are_placed_where_the_official_code_scrambles_them(self, size: tuple[int, int]) -> None:
        """A table that counts columns must count columns on the map, whatever H*W is."""
        model = Pvt(**NARROW, image_size=224).eval()
        stage = model.stages[0]
        stage.blocks = nn.ModuleList()
        stage.patch_embed.norm = nn.Identity()
        with torch.inference_mode():
            for parameter in stage.patch_embed.parameters():
                parameter.zero_()
            stage.pos_embed.copy_(torch.arange(56.0).repeat(56).view(1, -1, 1).expand(1, -1, 8))
            tokens, (height, width) = stage(torch.zeros(1, 3, *size))
        columns = tokens.view(height, width, 8)
        assert torch.allclose(columns, columns[:1].expand_as(columns), atol=1e-4)
        assert (columns[0].diff(dim=0) >= 0).all()
        torch.testing.assert_close(columns[0, :, 0].mean(), torch.tensor(27.5))

    def test_epsilons(self) -> None:
        model = Pvt(**NARROW, class_token=True, image_size=64)
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm):
                assert module.eps == (1e-5 if name.endswith(("patch_embed.norm", "attn.norm")) else 1e-6), name

    def test_layers(self) -> None:
        depths, head = layer_depths(Pvt(**NARROW, class_token=True, image_size=64))
        assert head == 6
        assert depths["stages.0.pos_embed"] == depths["stages.0.patch_embed.proj.weight"] == 0
        assert depths["stages.0.blocks.0.norm1.weight"] == 1
        assert depths["stages.1.patch_embed.proj.weight"] == 2
        assert depths["stages.1.blocks.1.norm1.weight"] == 3
        assert depths["class_token"] == depths["norm.weight"] == 5

    def test_starting_values(self) -> None:
        torch.manual_seed(0)
        model = Pvt(**{**NARROW, "embed_dims": (64, 64, 64, 64), "num_heads": (1, 1, 1, 1)}, class_token=True)
        state = model.state_dict()
        assert state["stages.0.blocks.0.mlp.fc1.weight"].std() == pytest.approx(0.02, rel=0.05)
        assert state["stages.0.pos_embed"].std() == pytest.approx(0.02, rel=0.05)
        assert state["class_token"].abs().max() > 0
        assert not any(state[name].any() for name in state if name.endswith("fc1.bias"))
        conv = state["stages.0.blocks.0.attn.sr.weight"]  # torch's default: uniform within 1 / sqrt(fan in)
        assert conv.abs().max() <= (64 * 64) ** -0.5


class TestPvtV2:
    def test_starting_values(self) -> None:
        torch.manual_seed(0)
        state = PvtV2(**{**NARROW, "embed_dims": (64, 64, 64, 64), "num_heads": (1, 1, 1, 1)}).state_dict()
        assert state["stages.0.patch_embed.proj.weight"].std() == pytest.approx((2 / (49 * 64)) ** 0.5, rel=0.05)
        assert state["stages.0.blocks.0.mlp.dwconv.weight"].std() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
        assert state["stages.0.blocks.0.attn.sr.weight"].std() == pytest.approx((2 / (64 * 64)) ** 0.5, rel=0.05)
        assert state["stages.0.blocks.0.attn.q.weight"].std() == pytest.approx(0.02, rel=0.05)

    def test_names(self) -> None:
        names = set(PvtV2(**NARROW).state_dict())
        assert {
            "stages.0.norm.weight",
            "stages.1.blocks.1.mlp.dwconv.bias",
            "stages.0.blocks.0.attn.sr.weight",
        } <= names
        assert "stages.3.blocks.0.attn.sr.weight" not in names

    def test_linear_reduction_is_in_every_stage(self) -> None:
        names = set(PvtV2(**NARROW, linear_sra=True).state_dict())
        assert {f"stages.{stage}.blocks.0.attn.sr.weight" for stage in range(4)} <= names


class TestVit:
    def build(self, **options: object) -> Vit:
        numbers = {"patch_size": 16, "embed_dim": 16, "depth": 8, "num_heads": 2, "mlp_ratio": 2, "norm_eps": 1e-6}
        return Vit(**{**numbers, "qkv_bias": True, "image_size": 64, **options}).eval()

    def test_taps_follow_the_quarters(self) -> None:
        assert self.build().default_taps == (2, 4, 6, 8)
        assert self.build(depth=12).default_taps == (3, 6, 9, 12)

    def test_stride_16_map_is_the_third_quarter(self) -> None:
        model = self.build()
        image = torch.randn(1, 3, 64, 96)
        seen = []
        model.blocks[5].register_forward_hook(lambda module, args, out: seen.append(out))
        with torch.inference_mode():
            maps = model(image)
        assert torch.equal(maps[2].flatten(2).transpose(1, 2), seen[0][:, 1:])

    def test_norm_is_there_for_classification_only(self) -> None:
        assert "norm.weight" not in self.build().state_dict()
        assert "norm.weight" in self.build(class_token=True).state_dict()
        assert "class_token" in self.build().state_dict()

    def test_small_image_size_for_a_patch_is_refused(self) -> None:
        with pytest.raises(UsageError, match="smaller than a patch"):
            self.build(patch_size=128)


class TestResNet:
    def test_frozen_parts_stay_as_they_are_in_training(self) -> None:
        torch.manual_seed(0)
        model = ResNet(block="basic", depths=(1, 1, 1, 1), frozen_stages=1, freeze_norm=True)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.pooled(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert not [key for key in changed if key.startswith(("conv1", "bn1", "layer1"))]
        assert not [key for key in changed if "running" in key or "num_batches" in key]
        assert {"layer2.0.conv1.weight", "layer4.0.bn2.weight"} <= changed

    def test_frozen_norms_stay_in_evaluation_mode(self) -> None:
        model = ResNet(block="basic", depths=(1, 1, 1, 1), frozen_stages=2).train()
        assert not model.bn1.training
        assert not model.layer2[0].bn1.training
        assert model.layer3[0].bn1.training
        assert not any(
            module.training
            for module in ResNet(block="basic", depths=(1, 1, 1, 1), freeze_norm=True).train().modules()
            if isinstance(module, nn.BatchNorm2d)
        )

    def test_frozen_stages_out_of_range(self) -> None:
        with pytest.raises(UsageError, match="frozen_stages 5 is out of range"):
            build_backbone("resnet18", frozen_stages=5)

    @pytest.mark.parametrize(("name", "width"), [("resnet18c", 32), ("resnet50c", 32), ("resnet50s", 64)])
    def test_deep_stems(self, name: str, width: int) -> None:
        with without_values():
            model = build_backbone(name)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert shapes["conv1.0.weight"] == (width, 3, 3, 3)
        assert shapes["conv1.3.weight"] == (width, width, 3, 3)
        assert shapes["conv1.6.weight"] == (2 * width, width, 3, 3)
        assert shapes["bn1.weight"] == (2 * width,)
        assert shapes["layer1.0.conv1.weight"][1] == 2 * width
        assert model.layer_of("conv1.6.weight") == model.layer_of("bn1.bias") == 0

    def test_deep_stem_equals_timms(self) -> None:
        timm = pytest.importorskip("timm", reason="needs the timm extra")
        torch.manual_seed(0)
        theirs = timm.create_model("resnet50c", features_only=True, out_indices=(1, 2, 3, 4)).eval()
        ours = build_backbone("resnet50c").eval()
        ours.load_state_dict(theirs.state_dict())
        image = torch.randn(1, 3, 97, 70)
        with torch.inference_mode():
            for mine, other in zip(ours(image), theirs(image), strict=True):
                torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)

    def test_deep_stem_freezes_and_starts_as_the_rest(self) -> None:
        torch.manual_seed(0)
        model = ResNet(block="bottleneck", depths=(1, 1, 1, 1), deep_stem=64, frozen_stages=1).train()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert not [name for name in trained if name.startswith(("conv1", "bn1", "layer1"))]
        assert not any(module.training for module in model.conv1.modules())
        conv = model.state_dict()["conv1.6.weight"]
        assert conv.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)

    def test_wide_stems_want_bottlenecks(self) -> None:
        with pytest.raises(UsageError, match="no deep stem of 64 channels"):
            ResNet(block="basic", depths=(1, 1, 1, 1), deep_stem=64)

    @pytest.mark.parametrize(
        ("stride", "dilations"), [(32, ((1, 1), (1, 1))), (16, ((1, 1), (1, 2))), (8, ((1, 2), (2, 4)))]
    )
    def test_output_stride(self, stride: int, dilations: tuple[tuple[int, int], ...]) -> None:
        """The first block of a dilated stage keeps the dilation of the stage before, as mmsegmentation and Trans2Seg do."""
        model = ResNet(block="bottleneck", depths=(1, 1, 2, 2), output_stride=stride, deep_stem=32).eval()
        found = tuple(tuple(block.conv2.dilation[0] for block in layer) for layer in (model.layer3, model.layer4))
        assert found == dilations
        with torch.inference_mode():
            maps = model(torch.randn(1, 3, 65, 97))
        assert [tuple(x.shape[2:]) for x in maps] == [(-(-65 // s), -(-97 // s)) for s in model.feature_strides]
        assert model.feature_strides == (4, 8, min(16, stride), stride)

    def test_output_stride_out_of_range(self) -> None:
        with pytest.raises(UsageError, match="an output stride of 12 is not possible"):
            build_backbone("resnet50", output_stride=12)
        with pytest.raises(UsageError, match="ResNets of basic blocks are not dilated"):
            build_backbone("resnet18c", output_stride=8)

    def test_resnext101_of_midas_is_torchvisions(self) -> None:
        with without_values():
            theirs = torchvision_models.resnext101_32x8d().state_dict()
            ours = build_backbone("resnext101_32x8d").state_dict()
        assert {k: v.shape for k, v in ours.items()} == {
            k: v.shape for k, v in theirs.items() if not k.startswith("fc.")
        }


@pytest.mark.slow
def test_compiled_model_equals_eager() -> None:
    torch.manual_seed(0)
    model = Pvt(**{**NARROW, "depths": (1, 0, 0, 0)}, image_size=64).eval()
    image = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(model)
    with torch.no_grad():
        for x, y in zip(compiled(image), model(image), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
