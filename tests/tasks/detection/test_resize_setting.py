"""`data.detection.resize` holds wherever a photo is read for a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pvtctl.data.scenes.scene import SCENE_CLASSES
from pvtctl.data.transforms import denormalize
from pvtctl.explain.backbone import BackbonePredictor
from pvtctl.export.source import from_checkpoint
from pvtctl.models.detector import build_detector
from pvtctl.models.structures import Detections, Objects
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.base import EvaluationRequest, PredictionRequest
from pvtctl.tasks.detection.predict import DetectorPredictor
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.detection.spec import DETECTION
from pvtctl.tasks.detection.transforms import CROP_SIDES, DetectionTransform
from pvtctl.weights.describe import inspect_checkpoint
from pvtctl.weights.save import save_safetensors

RESIZES = ("bilinear", "antialias")


def stripes(side: int = 160) -> Tensor:
    """Every second and third of four columns is white: sampled at a quarter of the size all is white, averaged none."""
    return (torch.arange(side) % 4 % 3 != 0).mul(255).to(torch.uint8).expand(3, side, side)


def resize_seen(pixels: Tensor) -> str:
    """How stripes were resized to a quarter."""
    inner = pixels[:, :, 2:-2]
    assert bool((inner > 250).all()) or bool((inner < 220).all())
    return "bilinear" if bool((inner > 250).all()) else "antialias"


def settings(resize: Any, **more: Any) -> DetectionData:
    sides = {"short_sides": (40,), "test_short_side": 40, "long_side": 64, "test_long_side": 64}
    return DetectionData(**{**sides, "resize": resize, **more})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`checkpoint(resize)`: a file with untrained weights that were, as it says, trained on images resized so."""
    model = build_detector("pvt_v2_b0@0.125", "retinanet", num_classes=len(SCENE_CLASSES), width=8)
    meta = {"backbone": "pvt_v2_b0@0.125", "class_names": list(SCENE_CLASSES), "task": "detection", "head": "retinanet"}

    def write(resize: str) -> Path:
        path = tmp_path_factory.mktemp("weights") / f"{resize}.safetensors"
        save_safetensors(path, model, {**meta, "detection": settings(resize).plain_values()})
        return path

    return write


@pytest.mark.parametrize("resize", RESIZES)
def test_training_evaluation_and_previews(resize: str, tmp_path: Path) -> None:
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    transform = DetectionTransform(settings(resize))
    assert resize_seen(transform.train(stripes(), nothing, torch.Generator())[0]) == resize
    assert resize_seen(transform.evaluate(stripes())) == resize
    recipe = load_recipe(
        "small_objects", overrides=["data.detection.short_sides=[40]", f"data.detection.resize={resize}"]
    )
    Image.fromarray(stripes().permute(1, 2, 0).numpy()).save(tmp_path / "stripes.png")
    assert resize_seen(DETECTION.augment_file(recipe, tmp_path / "stripes.png", torch.Generator())) == resize


@pytest.mark.parametrize("resize", RESIZES)
def test_the_resize_before_a_crop(resize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pvtctl.tasks.detection.transforms.CROP_SHORT_SIDES", (CROP_SIDES[0],))
    nothing = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    side = CROP_SIDES[0]  # the crop is the whole image, and the second resize does nothing
    transform = DetectionTransform(settings(resize, crop=1.0, short_sides=(side,), long_side=side))
    assert resize_seen(transform.train(stripes(4 * side), nothing, torch.Generator())[0]) == resize


class Remembering(nn.Module):
    """Stands for a detector."""

    seen: Tensor

    def forward(self, images: Tensor, *_: Any) -> list[Detections]:
        self.seen = images
        return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]


@pytest.mark.parametrize("resize", RESIZES)
def test_whatever_is_done_with_a_checkpoint(resize: str, checkpoint: Any) -> None:
    path = checkpoint(resize)
    found, model = inspect_checkpoint(path), Remembering()
    predictor = DetectorPredictor(PredictionRequest(found, torch.device("cpu")), model)  # type: ignore[arg-type]
    predictor(stripes())
    assert resize_seen(denormalize(model.seen)[0, :, :40, :40]) == resize
    pictures = BackbonePredictor(path, None, torch.device("cpu"), size=40)
    assert resize_seen(pictures.resized(stripes())) == resize
    assert from_checkpoint(str(path)).meta["antialias"] == (resize == "antialias")
    recipe = load_recipe("small_objects")
    asked = EvaluationRequest(asked=["data.detection.resize"])
    scored = [DETECTION.as_scored(recipe, found, request) for request in (EvaluationRequest(), asked)]
    assert [each.data.detection.resize for each in scored] == [resize, recipe.data.detection.resize]
    assert DETECTION.sizes(scored[0]).scored["resize"] == resize
    assert ("antialiased" in DETECTION.sizes(scored[0]).scored_label) == (resize == "antialias")


def test_default() -> None:
    """Of all recipes: their numbers are compared with those of mmdetection's code."""
    assert load_recipe("coco_retinanet_1x", "pvt_tiny").data.detection.resize == "bilinear"
    assert load_recipe("coco_detr_50e", "pvt_small").data.detection.resize == "bilinear"
