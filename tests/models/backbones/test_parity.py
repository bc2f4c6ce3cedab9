"""Outputs equal the original implementations', from state dicts in their layout, through the loader that users use."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from pvtctl.models.backbones import build_backbone, build_classifier
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.load import load_checkpoint

QUICK = [
    "pvt_tiny",
    "pvt_tiny_pyramid",
    "pvt_small",
    "pvt_small_pyramid",
    "pvt_v2_b0",
    "pvt_v2_b0_pyramid",
    "pvt_v2_b2",
    "pvt_v2_b2_pyramid",
    "pvt_v2_b2_li",
    "pvt_v2_b2_li_pyramid",
    "vit_small_patch16",
    "vit_small_patch32",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "resnet18",
    "resnet50",
]
SLOW = ["pvt_large", "pvt_large_pyramid", "vit_small_patch4", "resnext101_32x4d"]


@pytest.mark.parametrize("golden", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_outputs_equal_the_original(golden: str, kit: ModuleType, shared: Path) -> None:
    entries = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())["entries"]
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {
        key: shape for key, shape, dtype, _ in entries if dtype == "float32" or key.endswith("num_batches_tracked")
    }
    name = golden.removesuffix("_pyramid").removesuffix("_224")
    states = {variant: kit.fill_state_dict(shapes, variant) for variant in {case["variant"] for case in cases.values()}}
    models: dict[tuple[bool, str], nn.Module] = {}
    for case in cases.values():
        classifies = "logits" in case["outputs"]
        made = classifies, case["variant"]
        if made not in models:
            with without_values():  # no starting values: the kit's replace them all
                models[made] = build_classifier(name) if classifies else build_backbone(name)
            models[made].to_empty(device="cpu")
            assert load_checkpoint(models[made], states[case["variant"]]).backbone_share == 1.0
        image = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"]))
        with torch.inference_mode():
            out = models[made].eval()(image)
        outputs = {"logits": out} if classifies else dict(zip(("F1", "F2", "F3", "F4"), out, strict=True))
        for key, record in case["outputs"].items():
            agrees, message = kit.compare(record, outputs[key].numpy())
            assert agrees, message
