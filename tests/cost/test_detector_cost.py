"""Detectors against the published figures and the counts of the original code; what is timed; what memory they need."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch

from pvtctl.cost import memory
from pvtctl.cost.build import build_own
from pvtctl.cost.counting import CONVENTIONS, Cost
from pvtctl.cost.counting import count as count_anew
from pvtctl.errors import UsageError
from pvtctl.latency.prediction_steps import CANDIDATES, PARTS, DetectorForward, detector_training_step
from pvtctl.models.fast_cpu import optimize_for_cpu

count = functools.cache(count_anew)  # several tests look at the same model

# Parameters and trainable ones (M), `ops` and `paper` (GMACs), as counted on the authors' own code or on mmdetection's:
# torch.utils.flop_counter, and mmcv's counter with the attention formula of the PVT repositories.
W = (800, 1280)
COUNTED = [
    ("pvt_small", "retinanet", W, None, (34.221, 34.221, 285.662, 285.787)),  # printed 34.2 M, 285.8 G
    ("pvt_small", "retinanet", (640, 960), None, (34.221, 34.221, 157.083, 157.158)),  # printed 157.2 G
    ("resnet50", "retinanet", W, None, (37.969, 37.743, 238.536, 239.317)),  # printed 37.7 M (trainable), 239.3 G
    ("pvt_small", "mask_rcnn", W, None, (44.139, 44.139, 304.217, 304.382)),  # printed 44.1 M, 304.4 G
    ("resnet50", "mask_rcnn", W, None, (44.396, 44.171, 259.316, 260.138)),
    ("resnet50", "detr", (800, 1066), 91, (41.578, 41.353, 81.245, None)),
    ("pvt_small", "detr", W, 80, (41.645, 41.645, 147.293, None)),
]


def row(cost: Cost) -> tuple[float, float, float]:
    return round(cost.params / 1e6, 3), round(cost.trainable_params / 1e6, 3), round(cost.macs / 1e9, 3)


@pytest.mark.parametrize(("backbone", "head", "size", "classes", "expected"), COUNTED)
def test_counts_equal_those_of_the_original_code(
    backbone: str, head: str, size: tuple[int, int], classes: int | None, expected: tuple[float, ...]
) -> None:
    params, trainable, *macs = expected
    for convention, printed in zip(CONVENTIONS, macs, strict=True):
        if printed is not None:
            cost = count(backbone, size, head=head, num_classes=classes, convention=convention)
            assert row(cost) == (params, trainable, printed)


def test_gc_blocks_add_what_they_compute_and_no_more() -> None:
    """Table 10 prints 54.2 M and 279.6 G; the count that gives PVT-Small's 304.4 gives 260.3."""
    assert row(count("resnet50_gc_r4", W, head="mask_rcnn", convention="ops")) == (54.397, 54.172, 259.453)
    paper = count("resnet50_gc_r4", W, head="mask_rcnn", convention="paper")
    # the counter of old saw the blocks' layers alone, 260.211, not the product that pools the context
    assert paper.macs / 1e9 == pytest.approx(260.211 + 0.064, abs=0.001)


def test_table_6_of_v2() -> None:
    """Printed: 34.9, 35.1 and 32.3 M; 288.6, 290.7 and 227.4 G (290.649 is 290.65, then 290.7)."""
    for backbone, params, macs in (
        ("pvt_v2_b2_plain_ffn", 34.905, 288.642),
        ("pvt_v2_b2", 35.100, 290.649),
        ("pvt_v2_b2_li", 32.290, 227.358),
    ):
        assert row(count(backbone, W, head="retinanet", convention="paper")) == (params, params, macs)


def test_a_vit_under_retinanet_has_the_printed_parameters() -> None:
    """Table 8: 60.9 and 60.8 M."""
    for backbone, printed in (("vit_small_patch4", 60.9), ("vit_small_patch32", 60.8)):
        assert round(count(backbone, (64, 64), head="retinanet").params / 1e6, 1) == printed


def test_parts_and_classes() -> None:
    cost = count("resnet18", (64, 96), head="mask_rcnn", num_classes=3)
    names = [stage.name for stage in cost.stages]
    assert names[:2] == ["backbone.stem", "backbone.stage1"]
    assert names[-4:] == ["neck", "head.rpn", "head.box", "head.mask"]
    assert sum(stage.macs for stage in cost.stages) == cost.macs
    assert sum(stage.params for stage in cost.stages) == cost.params
    assert cost.num_classes == cost.to_dict()["num_classes"] == 3
    more = count("resnet18", (64, 96), head="mask_rcnn", num_classes=4)
    assert more.params - cost.params == 5 * 1025 + 257  # four box shifts and a score, and a mask
    with pytest.raises(UsageError, match="no head 'retina'"):
        count("resnet18", (64, 64), head="retina")
    with pytest.raises(UsageError, match="no classes"):
        count("resnet18", (64, 64), head="none", num_classes=3)


def case(**changes: Any) -> dict[str, Any]:
    return {"size": (64, 96), "batch_size": 2, "channels_last": False, "dtype": "fp32", "engine": "torch"} | changes


def detector(head: str) -> Any:
    torch.manual_seed(0)
    narrow = {} if head == "detr" else {"head": {"width": 32}}
    return optimize_for_cpu(build_own("resnet18@0.25", head, 80, json.dumps(narrow)))


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn", "detr"])
def test_a_random_detector_has_something_to_sort_out(head: str) -> None:
    step = DetectorForward(case(), detector(head), torch.device("cpu"))
    found: Any = step()
    assert len(found) == 2
    assert all(len(one) > 0 for one in found)
    assert tuple(step.seconds) == PARTS
    assert all(seconds > 0 for seconds in step.seconds.values())
    if head != "detr":
        threshold = step._options.score_threshold
        scores = step._kept[0]
        scores = (
            torch.cat([level.flatten() for level in scores]).sigmoid()
            if head == "retinanet"
            else scores.softmax(1)[:, :-1].flatten()
        )
        assert threshold is not None
        assert (scores > threshold).sum() == pytest.approx(2 * CANDIDATES, rel=0.05)


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn", "detr"])
def test_a_training_step_learns(head: str) -> None:
    loss: Any = detector_training_step(case(batch_size=1), detector(head), torch.device("cpu"))()
    assert bool(torch.isfinite(loss))


def test_memory_follows_from_shapes() -> None:
    size = (128, 160)
    need = {
        (training, fused): memory.estimate_memory(
            "vit_small_patch4", "retinanet", size, training=training, fused_attention=fused
        )
        for training in (True, False)
        for fused in (True, False)
    }
    tokens = 32 * 40 + 1
    matrices = 8 * tokens**2 * 4
    assert need[True, False] - need[True, True] > 8 * matrices  # the matrix of each of 8 layers is kept for backward
    assert matrices < need[False, False] - need[False, True] < 8 * matrices
    assert need[True, True] > 2 * need[False, True]
    twice = memory.estimate_memory("vit_small_patch4", "retinanet", size, 2, training=True)
    assert 1.5 * need[True, True] < twice < 2.1 * need[True, True]


def test_weights_are_not_activations() -> None:
    small, large = (memory.estimate_memory("resnet18", "none", (side, side), training=False) for side in (64, 128))
    assert large == pytest.approx(4 * small, rel=0.01)  # the same weights, four times the pixels


def test_a_warning_is_one_line_and_comes_before_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def warn(backbone: str) -> None:
        memory.warn_memory(backbone, "retinanet", (128, 160), 2, training=True, device="cpu", on_warning=told.append)

    warn("vit_small_patch4")
    assert told == []
    monkeypatch.setattr(memory, "memory_at_hand", lambda device: 1 << 30)
    warn("pvt_small")  # pyramids are not looked at
    assert told == []
    warn("vit_small_patch4")
    assert len(told) == 1
    assert told[0].startswith("memory: vit_small_patch4 under retinanet needs about ")
    assert "2 images of 128x160 in training" in told[0]
    assert "this machine has 1 GiB" in told[0]


def test_memory_of_timm_models_is_estimated_and_what_they_refuse_is_said() -> None:
    pytest.importorskip("timm")

    def warn(backbone: str) -> None:
        memory.warn_memory(backbone, "retinanet", (64, 107), 1, training=True, device="cpu", on_warning=print)

    warn("timm:test_vit")  # 107 is no multiple of its patches, the padded 128 is
    warn("timm:levit_128s")  # built again for 64x128
    with pytest.raises(
        UsageError, match="timm's efficientformer_l1 at 64x128: "
    ):  # it takes no other size, and says so
        warn("timm:efficientformer_l1")
