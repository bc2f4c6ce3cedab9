"""A file that holds no known model says what it holds instead, where that can be told, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.models.backbones import build_classifier
from pvtctl.weights.convert import convert_file
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.inspect import inspect_file
from pvtctl.weights.load import load_checkpoint
from pvtctl.weights.unknown import explain_unknown


@pytest.mark.parametrize(
    ("name", "model", "hint"),
    [
        ("model.model.22.dfl.conv.weight", "a YOLO of Ultralytics", "--results"),
        ("visual.transformer.resblocks.0.ln_1.weight", "CLIP", "clip"),
        ("vision_model.encoder.layers.0.layer_norm1.weight", "CLIP", "clip"),
        ("blocks.0.ls1.gamma", "a ViT with layer scale (DINOv2", "timm:vit_small_patch14_dinov2"),
        ("module.layers.0.blocks.0.attn.relative_position_bias_table", "a Swin Transformer", "timm:swin"),
        ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt", "timm:convnext"),
        ("downsample_layers.0.0.weight", "a ConvNeXt", "timm:convnext"),
        ("blocks.0.0.conv_dw.weight", "an EfficientNet or MobileNet", "timm:"),
        ("features.0.0.weight", "one of torchvision's", "timm"),
        ("vit.encoder.layer.0.output.dense.weight", "transformers' ViT", "timm:vit"),
        ("model.pixel_level_module.encoder.x", "SegFormer, Mask2Former", "models ls"),
        ("model.backbone.conv_encoder.model.conv1.weight", "a DETR of transformers", "facebookresearch"),
    ],
)
def test_families_of_others_are_named_with_what_to_do(name: str, model: str, hint: str, tmp_path: Path) -> None:
    state = {name: torch.ones(3)}
    what, advice = explain_unknown(state, "unknown")
    assert what.startswith(f"holds {model}")
    assert hint in advice
    torch.save(state, tmp_path / "a.pth")
    assert what in str(inspect_file(tmp_path / "a.pth").unknown)
    with pytest.raises(UsageError, match=re.escape(what)):
        inspect_checkpoint(tmp_path / "a.pth")
    with pytest.raises(UsageError, match=re.escape(what)):
        convert_file(tmp_path / "a.pth", tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match=re.escape(what)):
        load_checkpoint(build_classifier("pvt_v2_b0@0.25", num_classes=2), tmp_path / "a.pth")


def test_nothing_known() -> None:
    what, hint = explain_unknown({"a.weight": torch.ones(3)}, "unknown")
    assert what == "holds no model that pvtctl knows (unknown layout)"
    assert "models ls" in hint
