"""Typical materials: most objects wear the colour of their class, and everything else stays where it was."""

from __future__ import annotations

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


def test_colour_tells_the_class_and_only_then() -> None:
    def share_right(materials: str) -> float:
        sources = [
            ScenesSource(split, size=24, num_samples=n, materials=materials)
            for split, n in (("train", 360), ("val", 120))
        ]  # type: ignore[arg-type]
        (x, a), (y, b) = (
            (np.stack([s.picture(i).pixels.numpy()[:, 8:18, 8:16].mean((1, 2)) for i in range(len(s.ids))]), s.labels)
            for s in sources
        )
        chroma_x, chroma_y = (z / z.sum(1, keepdims=True) for z in (x, y))
        nearest = ((chroma_y[:, None] - chroma_x[None]) ** 2).sum(2).argmin(1)
        return float((a[nearest] == b).mean())

    chance = 1 / len(SCENE_CLASSES)
    assert share_right("any") < 2 * chance
    assert share_right("typical") > 2.5 * chance


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
