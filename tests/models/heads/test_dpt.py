"""DPT over every kind of backbone: sizes, readouts, taps, training, parameters, bad options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.backbones import Vit, VitHybrid, build_backbone
from pvtctl.models.backbones.base import Tap
from pvtctl.models.dense import DenseModel, build_depth_model, build_segmenter
from pvtctl.models.fast_cpu import optimize_for_cpu
from pvtctl.models.heads.dpt import Dpt, Reassemble, reassembled_channels
from pvtctl.models.heads.midas import Fusion
from pvtctl.models.layers.shapes import without_values


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def narrow_vit(*, distilled: bool = False, patch_size: int = 16) -> Vit:
    return Vit(
        patch_size=patch_size,
        embed_dim=32,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        qkv_bias=True,
        norm_eps=1e-6,
        distilled=distilled,
        image_size=64,
    )


def narrow_hybrid() -> VitHybrid:
    return VitHybrid(embed_dim=32, depth=4, num_heads=2, stem_blocks=(1, 1, 1), stem_widths=(32, 64, 128))


def over(backbone: Any, task: Any = "segmentation", **options: Any) -> DenseModel:
    """With a narrow decoder, if no width is given."""
    classes = 3 if task == "segmentation" else 1
    head = Dpt(backbone, task=task, num_classes=classes, **{"width": 32} | options)
    return DenseModel(backbone, None, head, task=task, num_classes=classes)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


BODIES = {
    "vit": narrow_vit,
    "distilled": lambda: narrow_vit(distilled=True),
    "patches of 8": lambda: narrow_vit(patch_size=8),
    "patches of 32": lambda: narrow_vit(patch_size=32),
    "hybrid": narrow_hybrid,
    "pvt": lambda: build_backbone("pvt_v2_b0@0.25"),
    "resnet": lambda: build_backbone("resnet18@0.25"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_maps_of_any_size(body: str, task: str) -> None:
    torch.manual_seed(0)
    model = over(BODIES[body](), task).eval()
    channels, factor = (3, 2) if task == "segmentation" else (1, 1)
    for size in ((64, 64), (33, 70)):
        padded = model.padded(size)
        with torch.inference_mode():
            out = model(images(2, 3, *size))
            assert out.shape == (2, channels, padded[0] // factor, padded[1] // factor)
            assert model.at_size(out, size).shape == (2, channels, *size)
            assert model.at_size(out, size, (50, 20)).shape == (2, channels, 50, 20)
        assert out.isfinite().all()
        assert task == "segmentation" or out.min() >= 0


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("readout", ["ignore", "add", "project"])
def test_every_parameter_learns(body: str, readout: str) -> None:
    reads = body not in ("pvt", "resnet")
    if not reads and readout != "ignore":
        return
    torch.manual_seed(0)
    model = over(BODIES[body](), **({"readout": readout} if reads else {})).train()
    out, (other,) = model(images(2, 3, 64, 96), auxiliary=True)
    assert other.shape == (2, 3, 16, 24)
    assert model.head.auxiliary_weight == 0.2
    (out.square().mean() + other.square().mean()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_depth_learns_with_every_parameter() -> None:
    torch.manual_seed(0)
    model = over(narrow_vit(), "depth").train()
    out, others = model(images(2, 3, 64, 64), auxiliary=True)
    assert others == ()
    (out - 1).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_auxiliary_classifier_is_left_out_at_weight_0() -> None:
    model = over(narrow_vit(), auxiliary_weight=0.0)
    assert not [name for name, _ in model.named_parameters() if "auxiliary" in name]
    assert model(images(2, 3, 64, 64), auxiliary=True)[1] == ()


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_cpu_kernels_agree(task: str) -> None:
    """Also where Winograd's convolution is taken, and batch norms are folded."""
    torch.manual_seed(0)
    model = over(narrow_vit(), task, width=256).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    batch = images(1, 3, 160, 160)
    slow = model(batch).detach()
    with torch.inference_mode():
        fast = optimize_for_cpu(model)(batch)
    assert (fast - slow).abs().max() < 1e-4 * slow.std().clamp_min(1e-2)


@pytest.mark.parametrize("readout", ["ignore", "add", "project"])
def test_readout_by_hand(readout: Any) -> None:
    torch.manual_seed(0)
    step = Reassemble(8, 5, 16, 16, readout)
    tokens, special = images(2, 6, 8), images(2, 2, 8)
    expected = tokens
    if readout == "add":
        expected = tokens + special.mean(1)[:, None]
    elif readout == "project":
        assert step.read is not None
        expected = F.gelu(step.read(torch.cat((tokens, special[:, :1].expand(2, 6, 8)), -1)))
    expected = step.project(expected.transpose(1, 2).reshape(2, 8, 2, 3))
    tap = Tap(tokens.transpose(1, 2).reshape(2, 8, 2, 3), special)
    torch.testing.assert_close(step(tap), expected)
    torch.testing.assert_close(optimize_for_cpu(step)(tap), expected)


def test_mixing_before_the_resize_changes_nothing() -> None:
    torch.manual_seed(0)
    fusion = Fusion(norm=False, mixing=True, rectified=False, coarsest=True)
    x = images(1, 256, 5, 7)
    assert fusion.mix is not None
    with torch.no_grad():
        after = fusion.mix(F.interpolate(fusion.unit(x), size=(10, 14), mode="bilinear", align_corners=True))
        torch.testing.assert_close(fusion(x, None, (10, 14)), after, atol=1e-5, rtol=1e-4)


def test_taps_read_the_blocks_they_name() -> None:
    torch.manual_seed(0)
    backbone = narrow_hybrid().eval()
    seen: dict[int, Tensor] = {}
    for number, block in enumerate(backbone.blocks, 1):
        block.register_forward_hook(lambda *call, number=number: seen.update({number: call[2]}))
    model = over(backbone, taps=("R0", "2", 3, 4))
    taps = model.head.read(backbone, images(1, 3, 64, 96))
    assert [tuple(tap.map.shape) for tap in taps] == [(1, 32, 16, 24), *[(1, 32, 4, 6)] * 3]
    assert taps[0].special is None
    for number, tap in zip((2, 3, 4), taps[1:], strict=True):
        assert torch.equal(torch.cat((tap.special, tap.map.flatten(2).transpose(1, 2)), 1), seen[number])


@pytest.mark.parametrize(
    ("backbone", "original", "printed"),
    [
        ("vit_base_patch16", 111_647_081, 112),
        ("vit_hybrid", 123_146_985, 123),
        ("vit_large_patch16", 344_055_465, 344),  # Table 9 has 343: the original's code without ImageNet's classifier
    ],
)
def test_parameters_of_table_9(backbone: str, original: int, printed: int) -> None:
    """The original holds besides, and never uses, the ViT's final norm and classifier and one residual unit."""
    with without_values():
        model = build_depth_model(backbone, "dpt", backbone_options={"image_size": 384})
    width = model.backbone.feature_channels[-1]
    idle = 2 * width + 1000 * (width + 1) + 2 * (256 * 256 * 9 + 256)
    assert count(model) + idle == original
    assert round(original / 1e6) == printed


def test_channels_are_those_of_the_original() -> None:
    with without_values():
        found = {
            name: reassembled_channels(build_backbone(name))  # type: ignore[arg-type]
            for name in ("deit_base_distilled_patch16", "vit_large_patch16", "vit_hybrid")
        }
    assert list(found.values()) == [[96, 192, 384, 768], [256, 512, 1024, 1024], [256, 512, 768, 768]]


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ((1, 2, 3), "taps 1, 2, 3 are not four rising ones"),
        ((1, 3, 2, 4), "are not four rising ones"),
        ((1, 1, 2, 4), "are not four rising ones"),
        ((0, 1, 2, 4), "there is no block 0"),
        ((1, 2, 3, 5), "there is no block 5"),
        (("R0", 2, 3, 4), "there is no block 'R0'"),
    ],
)
def test_bad_taps_are_told(taps: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as fault:
        Dpt(narrow_vit(), task="depth", taps=taps)
    assert fault.value.hint == "four of 1 to 4, such as 1, 2, 3, 4"


def test_bad_taps_of_the_hybrid_are_told() -> None:
    with pytest.raises(UsageError, match="R1 has stride 8"):
        Dpt(narrow_hybrid(), task="depth", taps=("R1", 2, 3, 4))
    with pytest.raises(UsageError, match="leave the blocks behind 3 idle"):
        Dpt(narrow_hybrid(), task="depth", taps=("R0", "R1", 2, 3))


@pytest.mark.parametrize("option", [{"taps": (3, 6, 9, 12)}, {"readout": "project"}])
def test_pyramids_have_no_blocks_to_choose(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"dpt has no {next(iter(option))} here"):
        build_segmenter("pvt_v2_b0", "dpt", num_classes=3, head_options=option)


def test_other_bad_options_are_told() -> None:
    with pytest.raises(UsageError, match="no readout 'projekt'"):
        Dpt(narrow_vit(), task="depth", readout="projekt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="dropout of 1 is out of range"):
        over(narrow_vit(), dropout=1.0)
    with pytest.raises(UsageError, match="dpt has no auxiliary_weight here"):
        build_depth_model("deit_tiny_patch16", "dpt", head_options={"auxiliary_weight": 0.2})
