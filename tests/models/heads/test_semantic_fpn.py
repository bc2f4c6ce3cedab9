"""Semantic FPN: the numbers of the original, the sizes of the papers, any backbone and any image."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtctl.errors import UsageError
from pvtctl.models.dense import DenseModel, build_segmenter
from pvtctl.models.heads.semantic_fpn import SemanticFpn
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.load import load_checkpoint


@pytest.mark.parametrize(("golden", "backbone"), [("sem_fpn_pvt_small", "pvt_small"), ("sem_fpn_r50v1c", "resnet50c")])
def test_every_map_equals_mmsegmentation(golden: str, backbone: str, kit: ModuleType, shared: Path) -> None:
    """Plain parameters in float32, with the fast convolutions; faint ones in float64, sharply."""
    manifest = json.loads((shared / "parity" / "manifests" / f"{golden}.json").read_text())
    cases = json.loads((shared / "parity" / "goldens" / f"{golden}.json").read_text())["cases"]
    shapes = {k: s for k, s, dtype, _ in manifest["entries"] if dtype == "float32" or k.endswith("num_batches_tracked")}
    with without_values():  # no starting values: the kit's replace them all
        model = build_segmenter(backbone, "semantic_fpn", num_classes=150)
    assert sum(p.numel() for p in model.parameters()) == manifest["total_params"]
    model = model.to_empty(device="cpu").eval()
    for case in cases.values():
        sharp = case["variant"] == "faint"
        tolerance, dtype = ({"factor": 0, "floor": 1e-7}, torch.float64) if sharp else ({}, torch.float32)
        state = kit.fill_state_dict(shapes, case["variant"])
        load_checkpoint(model.float(), {k: torch.as_tensor(v) for k, v in state.items()})
        image = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"])).to(dtype)
        with torch.inference_mode():
            outputs = outputs_of(model.to(dtype), image)
        assert set(outputs) == set(case["outputs"])
        for name, record in case["outputs"].items():
            fits, message = kit.compare(record, outputs[name].numpy(), **tolerance)
            assert fits, message


def outputs_of(model: DenseModel, image: Tensor) -> dict[str, Tensor]:
    assert model.neck is not None
    maps = model.backbone(image)
    pyramid = model.neck(maps)
    head, _ = model.head(pyramid)
    return {
        **{f"c{level}": x for level, x in enumerate(maps)},
        **{f"fpn{level}": x for level, x in enumerate(pyramid)},
        "head": head,
        "logits": model.at_size(head, (image.shape[2], image.shape[3])),
    }


# PVT v1 and v2, Table 5, parameters in millions: (printed, counted here). ResNets have the deep stem, ResNeXts have not,
# which their multiply-adds tell (docs). Two rows are printed as if rounded twice: 15.446 to 15.45 to 15.5, 7.545 alike.
TABLE_5 = {
    "resnet18c": (15.5, 15.446),
    "pvt_tiny": (17.0, 16.981),
    "resnet50c": (28.5, 28.515),
    "pvt_small": (28.2, 28.238),
    "resnet101c": (47.5, 47.507),
    "resnext101_32x4d": (47.1, 47.116),
    "pvt_medium": (48.0, 47.960),
    "resnext101_64x4d": (86.4, 86.394),
    "pvt_large": (65.1, 65.121),
    "pvt_v2_b0": (7.6, 7.545),
    "pvt_v2_b1": (17.8, 17.763),
    "pvt_v2_b2_li": (26.3, 26.307),
    "pvt_v2_b2": (29.1, 29.117),
    "pvt_v2_b3": (49.0, 48.992),
    "pvt_v2_b4": (66.3, 66.310),
    "pvt_v2_b5": (85.7, 85.710),
}


@pytest.mark.parametrize("backbone", TABLE_5)
def test_parameters_of_the_papers(backbone: str) -> None:
    printed, counted = TABLE_5[backbone]
    with without_values():
        model = build_segmenter(backbone, "semantic_fpn", num_classes=150)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 3) == counted
    assert f"{round(millions, 2) + 1e-9:.1f}" == str(printed)


def small_head(classes: int = 5) -> tuple[SemanticFpn, list[Tensor]]:
    torch.manual_seed(0)
    head = SemanticFpn(classes, in_channels=6, width=4)
    return head, [torch.randn(2, 6, 24 >> level, 32 >> level) for level in range(4)]


def test_by_its_definition() -> None:
    """Written out with plain functions, for statistics of norms that are none of the starting ones."""
    head, features = small_head()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = head.eval().state_dict()
    total = torch.zeros(2, 4, 24, 32)
    for level, times in enumerate((1, 1, 2, 3)):
        x = features[level]
        for at in range(times):
            conv, norm = f"scale_heads.{level}.{at}.conv.weight", f"scale_heads.{level}.{at}.bn"
            x = F.conv2d(x, state[conv], padding=1)
            mean, var = (state[f"{norm}.running_{what}"].view(1, -1, 1, 1) for what in ("mean", "var"))
            gain, shift = (state[f"{norm}.{what}"].view(1, -1, 1, 1) for what in ("weight", "bias"))
            x = ((x - mean) / (var + 1e-5).sqrt() * gain + shift).relu()
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total += x
    expected = F.conv2d(total, state["classifier.weight"], state["classifier.bias"])
    with torch.inference_mode():
        torch.testing.assert_close(head(features)[0], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head(features)[0], expected, atol=1e-5, rtol=1e-4)  # the path that has gradients


@pytest.mark.parametrize(
    ("backbone", "options", "size"),
    [
        ("resnet18c", {}, (97, 130)),
        ("pvt_v2_b0", {}, (65, 33)),
        ("pvt_tiny", {}, (99, 70)),
        ("deit_tiny_patch16", {}, (64, 80)),
        ("resnet50", {"output_stride": 8}, (65, 97)),
    ],
)
def test_any_backbone_and_odd_sizes(backbone: str, options: dict[str, int], size: tuple[int, int]) -> None:
    model = build_segmenter(backbone, "semantic_fpn", num_classes=3, backbone_options=options).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, *size)
        out = model(images)
        height, width = model.padded(size)
        assert out.shape[2:] == (height // 4, width // 4)
        logits = model.at_size(out, size)
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


def test_training_moves_every_parameter_and_statistic() -> None:
    torch.manual_seed(0)
    model = build_segmenter("pvt_v2_b0@0.25", "semantic_fpn", num_classes=4).train()
    head = model.head
    before = head.state_dict()["scale_heads.3.2.bn.running_mean"].clone()
    out, others = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    assert len(others) == 0
    loss = F.cross_entropy(model.at_size(out, (64, 64)), torch.randint(4, (2, 64, 64)))
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing
    assert all(
        p.grad is not None and p.grad.any() for name, p in head.named_parameters() if name.endswith("conv.weight")
    )
    assert not torch.equal(before, head.state_dict()["scale_heads.3.2.bn.running_mean"])


def test_dropout_is_of_whole_channels_and_for_training_only() -> None:
    head, features = small_head()
    head.dropout.p = 0.5
    kept = head.dropout(torch.ones(4, 100, 3, 3))
    assert ((kept == 0).all((2, 3)) | (kept == 2).all((2, 3))).all()
    head.eval()
    assert torch.equal(head(features)[0], head(features)[0])


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="a dropout of 1 is out of range"):
        build_segmenter("resnet18", "semantic_fpn", num_classes=3, head_options={"dropout": 1.0})
    with pytest.raises(UsageError, match="semantic_fpn has no width_of_nothing"):
        build_segmenter("resnet18", "semantic_fpn", num_classes=3, head_options={"width_of_nothing": 1})
    with pytest.raises(UsageError, match="has nothing to distinguish"):
        build_segmenter("resnet18", "semantic_fpn", num_classes=1)
