"""A backbone and a head of one's own: registered, they are names like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pvtctl
from pvtctl.cli.main import main
from pvtctl.errors import UsageError
from pvtctl.models import registry
from pvtctl.models.backbones import Backbone
from pvtctl.models.heads.base import DenseHead
from pvtctl.models.registry import (
    SEGMENTATION,
    BackboneOptions,
    BackboneSpec,
    HeadOptions,
    HeadSpec,
    Target,
    backbone_spec,
    head_spec,
    heads_of,
    register,
)
from pvtctl.recipe.load import load_recipe
from pvtctl.weights.build import model_from_checkpoint
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.save import save_safetensors


class Pools(Backbone):
    """Averages at four strides."""

    def __init__(self, width: int = 8) -> None:
        super().__init__((width,) * 4)
        self.stem = nn.Conv2d(3, width, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(self.stem(images), stride, ceil_mode=True) for stride in (4, 8, 16, 32)]


class Points(DenseHead):
    """A 1x1 convolution on the finest map."""

    def __init__(self, channels: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*(nn.Conv2d(channels, channels, 1) for _ in range(depth)))
        self.last = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor], auxiliary: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.last(self.hidden(features[0])), ()


class PointsOptions(HeadOptions):
    layers: int = 1


def build_points(backbone: Backbone, options: PointsOptions, target: Target) -> tuple[None, nn.Module]:
    return None, Points(backbone.feature_channels[0], target.num_classes, options.layers)


POINTS = HeadSpec(name="points", tasks=(SEGMENTATION,), title="Points", Options=PointsOptions, build=build_points)
POOLS = BackboneSpec(name="pools", family="pools", Options=BackboneOptions, build=lambda options: Pools())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    head_spec("dpt")  # fills the tables
    for table in ("_heads", "_backbones"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    register(POINTS)
    register(POOLS)


def test_names_are_taken_once(own: None) -> None:
    for spec in (POINTS, POOLS):
        with pytest.raises(UsageError, match="already"):
            register(spec)
    with pytest.raises(UsageError, match="is no name"):
        register(BackboneSpec(name="a@b", family="x", Options=BackboneOptions, build=lambda options: Pools()))
    with pytest.raises(UsageError) as fault:
        head_spec("point")
    assert fault.value.hint == "did you mean points?"
    assert heads_of(SEGMENTATION)[-1] == "points"
    assert backbone_spec("pools") is POOLS
    with pytest.raises(UsageError, match="one width"):
        backbone_spec("pools@0.5")


def test_recipes_know_them(own: None, tmp_path: Path) -> None:
    change = ["model.head={name: points, layers: 2}", "model.backbone={name: pools}"]
    recipe = load_recipe("ade20k_semantic_fpn", "pvt_tiny", "mini", change)
    assert recipe.model.model_dump()["head"] == {"name": "points", "layers": 2}
    for wrong, problem in (("layers: x", "model.head.layers"), ("lairs: 1", "model.head.lairs: unknown key")):
        with pytest.raises(UsageError, match=problem):
            load_recipe("ade20k_semantic_fpn", "pvt_tiny", "mini", [f"model.head={{name: points, {wrong}}}"])
    with pytest.raises(UsageError, match=r"model.head.layers: is for points, semantic_fpn has none"):
        load_recipe("ade20k_semantic_fpn", "pvt_tiny", "mini", ["model.head.layers=2"])


def test_commands_know_them(own: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["flops", "--backbone", "pools", "--head", "points", "--size", "64", "--num-classes", "5", "--json"]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["backbone"], row["head"], row["num_classes"]) == ("pools", "points", 5)
    assert row["params"] == (3 * 8 + 8) + (8 * 8 + 8) + (8 * 5 + 5)
    assert main(["models", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][-1]["name"] == "pools"


def test_a_checkpoint_that_names_them_is_believed(own: None, tmp_path: Path) -> None:
    model = pvtctl.create_segmenter("pools", "points", 3, head_options={"layers": 2})
    path = tmp_path / "own.safetensors"
    meta = {
        "backbone": "pools",
        "head": "points",
        "head_options": {"layers": 2},
        "task": "segmentation",
        "num_classes": 3,
    }
    save_safetensors(path, model, meta)
    found = inspect_checkpoint(path)
    assert found.what == "pools + points"
    again = model_from_checkpoint(found)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_head_that_is_not_registered_is_named(tmp_path: Path) -> None:
    model = pvtctl.create_segmenter("pvt_v2_b0@0.25", POINTS, 3)
    path = tmp_path / "own.safetensors"
    save_safetensors(path, model, {"backbone": "pvt_v2_b0@0.25", "head": "points", "task": "segmentation"})
    assert inspect_checkpoint(path).foreign == "a model with the head 'points', which is not registered"


def test_builders_take_built_parts() -> None:
    model = pvtctl.create_segmenter(Pools(), POINTS, 3)
    assert model.at_size(model(torch.zeros(1, 3, 64, 64)), (64, 64)).shape == (1, 3, 64, 64)
    assert pvtctl.create_classifier(Pools(), 5)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert pvtctl.create_detector(Pools(), "retinanet", 2, width=16).head.num_classes == 2
    assert pvtctl.count(Pools(), (64, 64), head=POINTS, num_classes=3).backbone == "Pools"
    with pytest.raises(UsageError, match="takes no options"):
        pvtctl.create_segmenter(Pools(), POINTS, 3, image_size=64)


def test_a_backbone_that_breaks_its_word_is_told() -> None:
    short, narrow = Pools(), Pools()
    short.feature_channels = (8, 8, 8)  # type: ignore[assignment]
    narrow.feature_channels = (8, 8, 8, 16)
    for wrong, problem in (
        (short, "feature_channels are"),
        (narrow, "gives the maps"),
        (nn.Linear(1, 1), "no backbone"),
    ):
        with pytest.raises(UsageError, match=problem):
            pvtctl.create_classifier(wrong, 2)  # type: ignore[arg-type]
