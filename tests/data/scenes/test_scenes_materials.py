"""Typical materials: most objects wear the colour of their class, and everything else stays where it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import pytest

from pvtctl.data.scenes.scene import SCENE_CLASSES, ScenesSource, render_scene
from pvtctl.errors import UsageError
from pvtctl.recipe.load import load_recipe
from pvtctl.tasks.classification.data import open_classification_split
from pvtctl.tasks.depth.data import open_depth_split
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.detection.data import open_detection_split
from pvtctl.tasks.detection.settings import DetectionData
from pvtctl.tasks.segmentation.data import open_segmentation_split
from pvtctl.tasks.segmentation.settings import SegmentationData


def test_only_colours_change() -> None:
    plain, dressed = render_scene(0, "train", 3, 64), render_scene(0, "train", 3, 64, "typical")
    assert plain.label == dressed.label
    for field in ("boxes", "labels", "masks", "semantic", "depth"):
        assert np.array_equal(getattr(plain, field), getattr(dressed, field))
    assert not np.array_equal(plain.image, dressed.image)
    background = plain.semantic < 2
    near = np.abs(plain.image.astype(int) - dressed.image.astype(int)).max(2) < 8
    assert near[background].mean() > 0.9  # but for the pixels along an outline


Drawn = Callable[[str, Literal["any", "typical"]], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """(split, materials) -> pixels (N, 3, 24, 24) and the classes; 240 images for training, 120 for validation."""

    @cache
    def images(split: str, materials: Literal["any", "typical"]) -> tuple[np.ndarray, np.ndarray]:
        source = ScenesSource(split, size=24, num_samples={"train": 240, "val": 120}[split], materials=materials)
        return np.stack([source.picture(at).pixels.numpy() for at in range(len(source.ids))]), source.labels

    return images


CHANCE = 1 / len(SCENE_CLASSES)


def test_mean_colour_does_not_tell_the_class(drawn: Drawn) -> None:
    """Nearest centroid of the mean colour stays near chance, 1/12."""
    (known, labels), (asked, truth) = ((x.mean((2, 3)), y) for x, y in (drawn("train", "any"), drawn("val", "any")))
    centroids = np.stack([known[labels == label].mean(0) for label in range(len(SCENE_CLASSES))])
    guess = np.square(asked[:, None] - centroids).sum(2).argmin(1)
    assert (guess == truth).mean() < 0.16


def test_colour_tells_the_class_and_only_then(drawn: Drawn) -> None:
    def share_right(materials: Literal["any", "typical"]) -> float:
        chroma = []
        for split in ("train", "val"):
            middle = drawn(split, materials)[0][:, :, 8:18, 8:16].mean((2, 3))
            chroma.append(middle / middle.sum(1, keepdims=True))
        nearest = ((chroma[1][:, None] - chroma[0][None]) ** 2).sum(2).argmin(1)
        return float((drawn("train", materials)[1][nearest] == drawn("val", materials)[1]).mean())

    assert share_right("any") < 2 * CHANCE
    assert share_right("typical") > 2.5 * CHANCE


def test_fingerprints_tell_the_materials() -> None:
    shared = {"samples": 4, "image_size": 32}
    for opened, options in (
        (open_classification_split, {}),
        (open_detection_split, {"settings": DetectionData(), "training": False, "with_masks": False}),
        (open_segmentation_split, {"settings": SegmentationData(), "training": False}),
        (open_depth_split, {"settings": DepthData(), "training": False}),
    ):
        prints = [
            opened("scenes", "", "val", materials=materials, **shared, **options).fingerprint()  # type: ignore[operator]
            for materials in ("any", "typical")
        ]
        assert prints[0] != prints[1]


def test_only_scenes_has_materials() -> None:
    with pytest.raises(UsageError, match=r"data\.scenes.*is for data\.name: scenes"):
        load_recipe("imagenet_pvt_v1", "pvt_small", overrides=["data.scenes.materials=typical"])
    with pytest.raises(UsageError, match=r"data\.scenes\.materials"):
        load_recipe("imagenet_pvt_v1", "pvt_small", "mini", ["data.scenes.materials=red"])
