"""Context blocks: equal to the original's, nothing until trained, and inside ResNet-50 where GCNet has them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.backbones.resnet import ContextBlock
from pvtctl.models.layers.shapes import without_values


@pytest.mark.parametrize(("channels", "part"), [(256, 4), (1024, 16)])
def test_output_equals_the_original(channels: int, part: int, kit: ModuleType, shared: Path) -> None:
    golden = f"gc_block_{channels}_r{part}"
    entries = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())["entries"]
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    for case in cases.values():
        block = ContextBlock(channels, 1 / part)
        block.load_state_dict(kit.fill_state_dict({key: shape for key, shape, *_ in entries}, case["variant"]))
        for dtype, tolerance in ((torch.float32, {}), (torch.float64, {"factor": 0, "floor": 1e-7})):
            feature = torch.from_numpy(kit.make_input(case["inputs"]["feature"], "feature", case["variant"]))
            with torch.inference_mode():
                out = block.to(dtype)(feature.to(dtype))
            agrees, message = kit.compare(case["outputs"]["out"], out.numpy(), **tolerance)
            assert agrees, message


def test_untrained_block_hands_its_input_on() -> None:
    feature = torch.randn(2, 8, 5, 7)
    assert torch.equal(ContextBlock(8, 1 / 4)(feature), feature)


def test_memory_layout_does_not_matter() -> None:
    block = ContextBlock(8, 1 / 4)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    feature = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(block(feature.contiguous(memory_format=torch.channels_last)), block(feature))


def test_resnet_with_blocks_begins_as_the_plain_one() -> None:
    plain, context = build_backbone("resnet50@0.25").eval(), build_backbone("resnet50_gc_r16@0.25").eval()
    fit = context.load_state_dict(plain.state_dict(), strict=False)
    assert not fit.unexpected_keys
    assert all(context.begins_as_identity(name) for name in fit.missing_keys)
    assert not any(context.begins_as_identity(name) for name in plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(context(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_blocks_are_in_every_block_of_the_stages_2_to_4() -> None:
    with without_values():
        model = build_backbone("resnet50_gc_r4", frozen_stages=1, freeze_norm=True)
        plain = build_backbone("resnet50")
    places = [name for name, module in model.named_modules() if isinstance(module, ContextBlock)]
    assert places == [f"layer{stage}.{at}.context_block" for stage, n in ((2, 4), (3, 6), (4, 3)) for at in range(n)]
    extra = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == 10_000_909  # GCNet, ResNet-50 with r4 in stages 2 to 4


def test_classifier_trains_its_context_blocks() -> None:
    model = build_classifier("resnet50_gc_r16@0.25", num_classes=2)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    for name, parameter in model.named_parameters():
        if "context_block.channel_add_conv.3" in name:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0
