"""Segmentation and depth models against the figures of PVT Tables 5 and 7, PVT v2 Table 5 and DPT Table 9."""

from __future__ import annotations

import functools
import json
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
import torch

from pvtctl.cost import memory
from pvtctl.cost.build import build_model, build_own
from pvtctl.cost.counting import count as count_anew
from pvtctl.errors import UsageError
from pvtctl.latency.prediction_steps import PARTS, PHOTO, DenseForward, dense_training_step

count = functools.cache(count_anew)  # several tests look at the same model
S = (512, 512)
NARROW = {"trans2seg": {"embed_dim": 32, "num_heads": 2}}
# backbone under Semantic FPN: printed M and G; counted M, `ops` and `paper`
TABLE_5 = [
    ("resnet18c", ("15.5", "32.2"), (15.446, 32.156, 32.194)),
    ("resnet50c", ("28.5", "45.6"), (28.515, 45.544, 45.620)),
    ("resnext101_64x4d", ("86.4", "103.9"), (86.394, 103.700, 103.877)),
    ("pvt_tiny", ("17.0", "33.2"), (16.981, 33.190, 33.209)),
    ("pvt_small", ("28.2", "44.5"), (28.238, 44.474, 44.495)),
    ("pvt_v2_b1", ("17.8", "34.2"), (17.763, 34.140, 34.222)),
    ("pvt_v2_b2_li", ("26.3", "41.0"), (26.307, 40.842, 41.019)),
    ("pvt_v2_b2", ("29.1", "45.8"), (29.117, 45.628, 45.747)),
]


def rounded_twice(number: int, unit: int) -> str:
    """As the papers' counter prints two digits, of which the tables print one."""
    two = (Decimal(number) / unit).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return str(two.quantize(Decimal("0.1"), ROUND_HALF_UP))


def millions(number: int) -> float:
    return round(number / 1e6, 3)


@pytest.mark.parametrize(("backbone", "printed", "counted"), TABLE_5)
def test_semantic_fpn(backbone: str, printed: tuple[str, str], counted: tuple[float, float, float]) -> None:
    paper = count(backbone, S, head="semantic_fpn", convention="paper")
    assert (millions(paper.params), round(paper.macs / 1e9, 3)) == (counted[0], counted[2])
    assert (rounded_twice(paper.params, 10**6), rounded_twice(paper.macs, 10**9)) == printed


def test_products_alone_are_what_torch_counts() -> None:
    """Of mmsegmentation's models, by `torch.utils.flop_counter`."""
    for backbone, _, (_, ops, _) in TABLE_5[:2]:
        assert round(count(backbone, S, head="semantic_fpn").macs / 1e9, 3) == ops


@pytest.mark.parametrize(("stride", "printed"), [(8, 120.5), (None, 45.5)])
def test_deeplabv3plus(stride: int | None, printed: float) -> None:
    """Table 7 cuts digits off: 26.853 M, 120.559 and 45.520 G."""
    cost = count("resnet50s", S, head="deeplabv3plus", output_stride=stride, convention="paper")
    assert millions(cost.params) == 26.853
    assert int(cost.macs / 1e8) / 10 == printed
    names = [stage.name for stage in cost.stages]
    assert names[0] == "backbone.stem"
    assert {"head.pyramid_pooling", "head.decoder", "head.classifier"} <= set(names)


@pytest.mark.parametrize(("backbone", "cells", "printed"), [("resnet50s", 1024, 56.1), ("pvt_small", 256, 32.1)])
def test_trans2segs_parameters_are_those_of_its_layers(backbone: str, cells: int, printed: float) -> None:
    """What the original has and nothing reads, added; tables, tokens and layer norms, which its counter did not see,
    taken off; class maps of 32 channels: see docs/cost.md."""
    model = build_model(backbone, "trans2seg")
    layers = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    seen = sum(p.numel() for m in model.modules() if isinstance(m, layers) for p in m.parameters(recurse=False))
    answers, hidden, width = 2 * cells * 3 * cells + 4 * cells, 3 * 256, 256
    mlp = 2 * width * hidden + hidden + width
    unread = 3 * answers + 2 * mlp + width**2 + width**2 + width
    first = 64 if backbone == "pvt_small" else 256
    narrow = (264 + first + 2 * 4 * 9 // 4) * 32  # pointwise, the first map's branch, depthwise of two
    narrow += 2 * (64**2 - 32**2) + (32 + 3 * 2 * 32 + 2 * 2 * 32) + 32  # pointwise of two, norms, the last
    assert int((seen + unread - narrow) / 1e5) / 10 == printed


def test_trans2seg_by_parts() -> None:
    cost = count("pvt_small", S, head="trans2seg")
    parts = {stage.name: stage for stage in cost.stages}
    assert {"head.encoder", "head.decoder", "head.class_maps"} <= set(parts)
    assert parts["head.class_maps"].macs / cost.macs == pytest.approx(0.335, abs=0.001)
    assert sum(stage.params for stage in cost.stages) == cost.params


@pytest.mark.parametrize(
    ("backbone", "head", "kept", "printed"),
    [
        ("vit_base_patch16", "dpt", 0.292 + 1.180 + 0.769 + 0.002, 112),
        ("vit_hybrid", "dpt", 0.292 + 1.180 + 0.769 + 0.002, 123),
        ("resnext101_32x8d", "midas", 1.180, 105),
    ],
)
def test_dpts_table_9(backbone: str, head: str, kept: float, printed: int) -> None:
    """The originals keep what nothing reads: a residual unit, the classifier and last norm; and positions for 384 pixels."""
    assert round(count(backbone, (64, 64), head=head).params / 1e6 + kept) == printed


def test_large_has_the_originals_parameters_but_not_the_printed() -> None:
    cost = count("vit_large_patch16", (64, 64), head="dpt")
    assert {"backbone.blocks", "head.reassemble", "head.decoder", "head.output"} <= {part.name for part in cost.stages}
    assert round(cost.params / 1e6 + 0.389 + 1.180 + 1.025 + 0.002, 2) == 344.06  # 344.055 in its file; printed: 343
    assert cost.num_classes is None


def test_classes_turn_dpt_from_depth_to_segmentation() -> None:
    depth, classes = count("pvt_v2_b0", (64, 64), head="dpt"), count("pvt_v2_b0", (64, 64), head="dpt", num_classes=7)
    assert depth.num_classes is None
    assert classes.num_classes == 7
    assert depth.params != classes.params
    assert count("pvt_v2_b0", (64, 64), head="semantic_fpn").num_classes == 150
    with pytest.raises(UsageError, match="midas predicts depth and has no classes"):
        count("pvt_v2_b0", (64, 64), head="midas", num_classes=7)
    with pytest.raises(UsageError, match="output_stride"):
        count("pvt_v2_b0", (64, 64), head="deeplabv3plus", output_stride=16)


def small(head: str, classes: int | None) -> Any:
    torch.manual_seed(0)
    return build_own("pvt_v2_b0@0.25", head, classes, json.dumps({"head": NARROW.get(head, {"width": 32})}))


def case(**changes: Any) -> dict[str, Any]:
    return {"size": (64, 96), "batch_size": 2, "channels_last": False, "dtype": "fp32", "engine": "torch"} | changes


@pytest.mark.parametrize(("head", "classes"), [("semantic_fpn", 20), ("dpt", None), ("dpt", 3), ("midas", None)])
def test_a_photo_gets_a_map_of_its_size(head: str, classes: int | None) -> None:
    step = DenseForward(case(), small(head, classes), torch.device("cpu"))
    found: Any = step()
    assert [one.shape for one in found] == [PHOTO] * 2
    if classes is not None:
        assert int(found[0].max()) < classes
    assert tuple(step.seconds) == PARTS
    assert all(seconds > 0 for seconds in step.seconds.values())


def test_labels_are_those_of_all_classes_at_once() -> None:
    model = small("semantic_fpn", 40)
    step = DenseForward(case(batch_size=1), model, torch.device("cpu"))
    raw = torch.randn(1, 40, 16, 24)
    found = step._inference._answer(raw, (64, 96), PHOTO)
    assert torch.equal(found.long(), model.at_size(raw, (64, 96), PHOTO)[0].argmax(0))


@pytest.mark.parametrize(
    ("head", "classes"), [("semantic_fpn", 5), ("trans2seg", 5), ("deeplabv3plus", 5), ("dpt", 5), ("dpt", None)]
)
def test_a_training_step_learns(head: str, classes: int | None) -> None:
    model = small(head, classes)
    before = next(model.head.parameters()).clone()
    loss: Any = dense_training_step(case(), model, torch.device("cpu"))()
    assert bool(torch.isfinite(loss))
    assert not torch.equal(before, next(model.head.parameters()))


def test_a_warning_names_what_there_is_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(memory, "memory_at_hand", lambda device: 1 << 30)
    for head, classes in (("semantic_fpn", 150), ("trans2seg", 2), ("trans2seg", 150)):
        memory.warn_memory(
            "pvt_v2_b0", head, (128, 128), 4, training=True, device="cpu", on_warning=told.append, num_classes=classes
        )
    assert len(told) == 1  # one map a class: no other head over a pyramid comes near
    assert told[0].startswith("memory: pvt_v2_b0 under trans2seg needs about ")
    assert "4 images of 128x128 in training" in told[0]
    assert "data.segmentation.crop" in told[0]
