"""What the pictures of architectures and position embeddings are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.explain.architecture import describe_architecture
from pvtctl.explain.positions import PositionTable, position_tables, spread_places
from pvtctl.models.backbones import build_backbone


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("pvt_tiny", "classifier"),
        ("pvt_v2_b2_li", "none"),
        ("deit_tiny_patch16", "classifier"),
        ("resnet50_gc_r4", "classifier"),
        ("pvt_v2_b0", "retinanet"),
        ("vit_hybrid", "dpt"),
    ],
)
def test_boxes_add_up(name: str, head: str) -> None:
    column = describe_architecture(name, (96, 128), head=head)
    assert sum(box.params for box in column.boxes) == column.params
    assert sum(box.macs for box in column.boxes) == column.macs
    assert column.boxes[0].title in ("Stage 1", "Stem", "Patch embedding")


def test_stages_say_what_is_in_them() -> None:
    first, _, third, fourth, head = describe_architecture("pvt_tiny", (230, 310)).boxes
    assert first.shape == (64, 57, 77)
    assert "4,389 tokens, keys reduced 8×8: 63" in first.lines
    assert "2 blocks, 5 heads of 64" in third.lines
    assert "63 + 1 tokens, keys unreduced: 64" in fourth.lines
    assert head.title == "Classifier"
    pooled = describe_architecture("pvt_v2_b2_li", (224, 224)).boxes[0]
    assert "3,136 tokens, keys pooled to 7×7: 49" in pooled.lines
    assert "feed-forward 512 with 3×3 convolution" in pooled.lines
    assert "a context block in each" in describe_architecture("resnet50_gc_r4", (64, 64)).boxes[2].lines


def test_models_of_timm_are_one_box() -> None:
    pytest.importorskip("timm")
    (box,) = describe_architecture("timm:resnet18", (64, 96), head="none").boxes
    assert box.params > 11e6
    assert "stride 8: 128 × 8 × 12" in box.lines


def test_tables_are_resized_as_the_backbone_does() -> None:
    torch.manual_seed(0)
    model = build_backbone("pvt_tiny", class_token=True)
    tables = position_tables(model)
    assert [table.grid for table in tables] == [(56, 56), (28, 28), (14, 14), (7, 7)]
    last = tables[-1]
    assert torch.equal(last.values, model.stages[3].pos_embed[:, 1:])  # type: ignore[union-attr, index]
    assert last.grid_at((230, 310)) == (7, 9)
    resized = last.resized((7, 9))
    assert resized.values.shape == (1, 63, 512)
    (table,) = position_tables(build_backbone("deit_tiny_patch16"))
    assert table.values.shape == (1, 196, 192)


def test_similarity_is_the_cosine() -> None:
    values = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [1, 1], [-1, 0], [0, -1]]])
    alike = PositionTable("patches", values, (2, 3), 16).similarity([(0, 0), (1, 0)])
    half = 2**-0.5
    expected = np.array([[[1.0, 1.0, 0.0], [half, -1.0, 0.0]], [[half, half, half], [1.0, -half, -half]]])
    assert np.allclose(alike, expected, atol=1e-6)


def test_places_are_spread() -> None:
    assert spread_places((7, 7), 3) == [(r, c) for r in (1, 3, 5) for c in (1, 3, 5)]
    assert spread_places((2, 9), 3) == [(r, c) for r in (0, 1) for c in (1, 4, 7)]


@pytest.mark.parametrize(("name", "why"), [("pvt_v2_b0", "PVT v2 has none: .* zero padding"), ("resnet18", "ResNet")])
def test_backbones_without_tables(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        position_tables(build_backbone(name))
