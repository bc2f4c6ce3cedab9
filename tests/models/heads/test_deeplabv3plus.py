"""DeepLabV3+: the numbers of mmsegmentation's, the counts of PVT Table 7, any backbone and any image."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pvtctl.errors import UsageError
from pvtctl.models.dense import build_segmenter
from pvtctl.models.heads.deeplabv3plus import DeepLabV3Plus, rates
from pvtctl.models.layers.shapes import without_values
from pvtctl.weights.load import load_checkpoint

MMSEG = {"width": 512, "projection": 3, "auxiliary_weight": 0.4}
CHANNELS = (8, 12, 16, 24)


def test_every_map_equals_mmsegmentation(kit: ModuleType, shared: Path) -> None:
    """Plain parameters in float32, with the fast convolutions; faint ones in float64, sharply."""
    manifest = json.loads((shared / "parity" / "manifests" / "deeplabv3plus_r50_d8.json").read_text())
    cases = json.loads((shared / "parity" / "goldens" / "deeplabv3plus_r50_d8.json").read_text())["cases"]
    shapes = {k: s for k, s, dtype, _ in manifest["entries"] if dtype == "float32" or k.endswith("num_batches_tracked")}
    with without_values():  # no starting values: the kit's replace them all
        model = build_segmenter(
            "resnet50c",
            "deeplabv3plus",
            num_classes=150,
            head_options=MMSEG,
            backbone_options={"output_stride": 8},
        )
    assert sum(p.numel() for p in model.parameters()) == manifest["total_params"]
    model = model.to_empty(device="cpu").eval()
    for case in cases.values():
        sharp = case["variant"] == "faint"
        tolerance, dtype = ({"factor": 0, "floor": 1e-7}, torch.float64) if sharp else ({}, torch.float32)
        state = kit.fill_state_dict(shapes, case["variant"])
        load_checkpoint(model.float(), {k: torch.as_tensor(v) for k, v in state.items()})
        image = torch.from_numpy(kit.make_input(case["inputs"]["image"], "image", case["variant"])).to(dtype)
        with torch.inference_mode():
            maps = model.to(dtype).backbone(image)
            head, (aux,) = model.head(maps, auxiliary=True)
            outputs = {f"c{level}": x for level, x in enumerate(maps)} | {"head": head, "aux": aux}
            outputs["logits"] = model.at_size(head, (image.shape[2], image.shape[3]))
        assert set(outputs) == set(case["outputs"])
        for name, record in case["outputs"].items():
            fits, message = kit.compare(record, outputs[name].numpy(), **tolerance)
            assert fits, message


@pytest.mark.parametrize(("stride", "convolutions", "with_norms"), [(8, 120.170, 120.556), (16, 45.308, 45.518)])
def test_counts_of_table_7(stride: int, convolutions: float, with_norms: float) -> None:
    """Printed: 26.8 M, 120.5 and 45.5 G. All three are these numbers cut after one digit, where batch norms count two
    operations an element and nothing is rounded; rounded, the parameters would be 26.9."""
    with without_values():
        model = build_segmenter(
            "resnet50s", "deeplabv3plus", num_classes=150, backbone_options={"output_stride": stride}
        ).eval()
        images = torch.empty(1, 3, 512, 512)
    assert sum(p.numel() for p in model.parameters()) == 26_853_062
    norms = 0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal norms
        norms += 2 * output.numel()

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    giga = counter.get_total_flops() / 2e9
    assert round(giga, 3) == convolutions
    assert round(giga + norms / 1e9, 3) == with_norms


def test_other_assemblies_do_not_have_table_7s_parameters() -> None:
    def millions(backbone: str, **options: float) -> float:
        with without_values():
            model = build_segmenter(backbone, "deeplabv3plus", num_classes=150, head_options=options)
        return round(sum(p.numel() for p in model.parameters()) / 1e6, 3)

    assert millions("resnet50c") == 26.749  # its convolutions are 114.3 and 39.5 G
    assert millions("resnet50c", **MMSEG) == 43.691
    assert millions("resnet50c", width=512, projection=3) == 41.292


def test_rates_reach_the_same_distance_in_pixels() -> None:
    assert [rates(stride) for stride in (8, 16, 32)] == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
    for stride in (8, 16, 32):
        head = DeepLabV3Plus(CHANNELS, 2, stride=stride, width=8)
        assert {m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d)} == {1, *rates(stride)}


def test_by_its_definition() -> None:
    """A head whose norms do nothing, written out with plain functions."""
    torch.manual_seed(0)
    head = DeepLabV3Plus(CHANNELS, 3, stride=16, width=10).eval()
    features = [torch.randn(1, c, s, s + 3) for c, s in zip(CHANNELS, (20, 10, 5, 5), strict=True)]
    state = head.state_dict()
    root = (1 + 1e-5) ** 0.5

    def conv(x: torch.Tensor, name: str, **options: int) -> torch.Tensor:
        return (F.conv2d(x, state[f"{name}.conv.weight"], **options) / root).relu()

    def separable(x: torch.Tensor, name: str, rate: int = 1) -> torch.Tensor:
        return conv(conv(x, f"{name}.0", padding=rate, dilation=rate, groups=x.shape[1]), f"{name}.1")

    last = features[-1]
    parts = [conv(last.mean((2, 3), keepdim=True), "pool").expand(-1, -1, 5, 8), conv(last, "branches.0")]
    parts += [separable(last, f"branches.{at}", rate) for at, rate in ((1, 6), (2, 12), (3, 18))]
    x = conv(torch.cat(parts, 1), "projection")
    x = F.interpolate(x, (20, 23), mode="bilinear", align_corners=False)
    x = separable(separable(torch.cat([x, conv(features[0], "low_level")], 1), "decoder.0"), "decoder.1")
    expected = F.conv2d(x, state["classifier.weight"], state["classifier.bias"])
    with torch.inference_mode():
        torch.testing.assert_close(head(features)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "options", "size"),
    [
        ("resnet50s", {"output_stride": 8}, (65, 97)),
        ("resnet50c", {"output_stride": 16}, (70, 33)),
        ("pvt_v2_b0", {}, (65, 33)),
        ("pvt_tiny", {}, (99, 70)),
        ("deit_tiny_patch16", {}, (64, 80)),
    ],
)
def test_any_backbone_and_odd_sizes(backbone: str, options: dict[str, int], size: tuple[int, int]) -> None:
    model = build_segmenter(
        backbone, "deeplabv3plus", num_classes=3, backbone_options=options, head_options={"width": 16}
    ).eval()
    with torch.inference_mode():
        images = torch.randn(1, 3, *size)
        out = model(images)
        height, width = model.padded(size)
        assert out.shape[2:] == (height // 4, width // 4)
        logits = model.at_size(out, size)
    assert logits.shape == (1, 3, *size)
    assert logits.isfinite().all()


def test_training_moves_every_parameter() -> None:
    torch.manual_seed(0)
    options = {"width": 16, "auxiliary_weight": 0.4}
    model = build_segmenter("pvt_v2_b0@0.25", "deeplabv3plus", num_classes=4, head_options=options).train()
    assert model.head.auxiliary_weight == 0.4
    out, others = model(torch.randn(2, 3, 64, 64), auxiliary=True)
    assert [x.shape for x in others] == [(2, 4, 4, 4)]  # on the third map
    truth = torch.randint(4, (2, 64, 64))
    loss: Any = sum(F.cross_entropy(model.at_size(x, (64, 64)), truth) for x in (out, *others))
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_auxiliary_head_is_for_those_who_ask() -> None:
    features = [torch.randn(2, c, 4, 4) for c in CHANNELS]
    plain, with_one = (DeepLabV3Plus(CHANNELS, 3, width=8, auxiliary_weight=weight) for weight in (0.0, 0.4))
    assert not [name for name, _ in plain.named_parameters() if name.startswith("auxiliary")]
    assert plain(features, auxiliary=True)[1] == ()
    assert with_one(features)[1] == ()
    assert with_one(features, auxiliary=True)[1][0].shape == (2, 3, 4, 4)


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="no projection of 5x5"):
        DeepLabV3Plus(CHANNELS, 3, projection=5)
    with pytest.raises(UsageError, match=r"an auxiliary weight of -0\.1 is below 0"):
        DeepLabV3Plus(CHANNELS, 3, auxiliary_weight=-0.1)
    with pytest.raises(UsageError, match=r"a dropout of -0\.1 is out of range"):
        DeepLabV3Plus(CHANNELS, 3, dropout=-0.1)


def test_one_image_at_a_time_is_refused_in_training_only() -> None:
    head = DeepLabV3Plus(CHANNELS, 3, width=8)
    features = [torch.randn(1, c, 4, 4) for c in CHANNELS]
    with pytest.raises(UsageError, match="batch norm cannot train on one image") as fault:
        head(features)
    assert "train.batch_size=2" in (fault.value.hint or "")
    assert head.eval()(features)[0].shape == (1, 3, 4, 4)
