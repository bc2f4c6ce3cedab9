"""Models with options of their own are the ones that runs train: counted and timed as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pvtctl.cost.build import build_own
from pvtctl.cost.counting import count, count_own
from pvtctl.errors import UsageError
from pvtctl.latency.measure import Case, measure_latency
from pvtctl.models.layers.shapes import without_values


@pytest.mark.parametrize(
    ("head", "classes"), [("classifier", 7), ("retinanet", 7), ("detr", 7), ("semantic_fpn", 7), ("dpt", None)]
)
def test_without_options_it_is_the_model_of_the_papers(head: str, classes: int | None) -> None:
    own = count_own("pvt_v2_b0", head, classes, "{}", (64, 96))
    papers = count("pvt_v2_b0", (64, 96), head=head, num_classes=classes)
    assert (own.params, own.macs) == (papers.params, papers.macs)


def test_options_of_backbone_and_head_are_heeded() -> None:
    options = json.dumps({"backbone": {"image_size": 64}, "head": {"width": 32}})
    own = count_own("pvt_tiny", "retinanet", 7, options, (64, 64))
    assert own.params < 0.75 * count("pvt_tiny", (64, 64), head="retinanet", num_classes=7).params
    with without_values():
        detector: Any = build_own("pvt_tiny", "retinanet", 7, options)
        metric = build_own("pvt_v2_b0", "dpt", None, json.dumps({"head": {"width": 32}, "scale_shift": [0.01, 0.1]}))
    assert detector.backbone.stages[0].pos_embed.shape[1] == 16**2
    assert metric.scale_shift == (0.01, 0.1)
    with pytest.raises(UsageError, match="midas has no twist"):
        build_own("pvt_v2_b0", "midas", None, json.dumps({"head": {"twist": 3}}))


def test_the_timed_model_is_that_one() -> None:
    options = json.dumps({"head": {"width": 16}})
    case = Case("pvt_v2_b0", (64, 64), head="retinanet", num_classes=3, options=options)
    (own,), _ = measure_latency([case], repeats=1, warmup=0, threads=1)
    assert own.to_dict()["options"] == options
    with pytest.raises(UsageError, match="trans2seg has no width"):
        measure_latency([Case("pvt_v2_b0", (64, 64), head="trans2seg", num_classes=3, options=options)])
    assert "options" not in replace(own, case=Case("pvt_v2_b0")).to_dict()
