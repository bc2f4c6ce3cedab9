"""Curves over each other, features, guesses and pictures in SVG: drawn whole, for odd cases too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from pvtctl.errors import UsageError
from pvtctl.explain.feature_pictures import ComponentFit, draw_features, energy_of, to_levels
from pvtctl.models.structures import Detections, Objects
from pvtctl.tasks.classification.pictures import draw_guesses
from pvtctl.tasks.classification.predict import Guess
from pvtctl.tasks.depth.pictures import draw_beside
from pvtctl.tasks.detection.pictures import draw_detections, draw_side_by_side, rights
from pvtctl.views.curves import CurvePanel, Series, draw_panels
from pvtctl.views.sheet import sheet_of, write_picture


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_overlays_are_the_same_each_time(tmp_path: Path, ending: str) -> None:
    series = [
        Series("a", [1, 2, 3], [1.0, float("nan"), 3.0], lows=[0.5, 1, 2.5], highs=[1.5, 2, 3.5], paper=2.5),
        Series("$b$ " + 60 * "x", range(100), [np.sin(at) for at in range(100)]),
        Series("empty", [], []),
    ]
    panels = [CurvePanel("Two and nothing", "AP, %", series)]
    first, second = (draw_panels(tmp_path / f"{name}.{ending}", panels, "epoch") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 5000


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_panels(tmp_path / "x.png", [CurvePanel("t", "u", [Series("a", [1], [float("nan")])])], "step")
    draw_panels(
        tmp_path / "x.png", [CurvePanel("t", "u", [Series("a", [1], [2.0])]), CurvePanel("empty", "u", [])], "step"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_components_are_joint_and_their_signs_fixed() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(8, 2))
    maps = [np.tensordot(mixing, rng.normal(size=(2, 5, 6)), 1) + 3 for _ in range(2)]
    fits = [ComponentFit(), ComponentFit()]
    for one in maps:
        fits[0].add(one)
    for one in reversed(maps):
        fits[1].add(one)
    first, second = (fit.components() for fit in fits)
    assert first.share == pytest.approx(1.0), "two directions hold all of it"
    np.testing.assert_allclose(first.directions[:2], second.directions[:2], atol=1e-6)
    largest = np.abs(first.directions).argmax(1)
    assert (first.directions[np.arange(3), largest] > 0).all()
    both = np.concatenate([one.reshape(8, -1) for one in maps], axis=1)
    values, vectors = np.linalg.eigh(np.cov(both, bias=True))
    np.testing.assert_allclose(np.abs(first.directions[0]), np.abs(vectors[:, -1]), atol=1e-6)
    placed = [first.of(one) for one in maps]
    assert placed[0].shape == (3, 5, 6)
    assert np.var(np.concatenate([p[0].ravel() for p in placed])) == pytest.approx(values[-1], rel=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 16])
def test_features_of_flat_and_narrow_maps(tmp_path: Path, channels: int) -> None:
    maps = np.full((channels, 1, 3), 2.0)
    fit = ComponentFit()
    fit.add(maps)
    found = fit.components()
    assert found.share == 0
    (level,) = to_levels("C5", channels, found.share, [found.of(maps)], [energy_of(maps)])
    assert (level.rgb == 128).all(), "where nothing differs, nothing has a colour"
    assert level.energy == pytest.approx(2 * channels**0.5)
    image = np.zeros((32, 96, 3), np.uint8)
    path = draw_features(
        tmp_path / "f.png", image, {"Backbone": [level], "Neck": [level, level]}, "title\n" + 200 * "x"
    )
    with Image.open(path) as picture:
        assert picture.width == 900


def test_a_picture_in_svg_holds_the_pixels(tmp_path: Path) -> None:
    pixels = sheet_of({"a": np.zeros((4, 4, 3), np.uint8), "b": np.full((2, 4, 3), 9, np.uint8)}, columns=2, width=50)
    text = write_picture(tmp_path / "s.svg", pixels).read_text()
    assert re.search(rf'viewBox="0 0 {pixels.shape[1]} {pixels.shape[0]}"', text)
    with pytest.raises(UsageError, match=r"x\.gif"):
        write_picture(tmp_path / "x.gif", pixels)


def test_masks_lie_on_both_sides_and_rights_are_counted() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:20] = 1
    truth = Objects(
        torch.tensor([[5.0, 5, 20, 20], [30, 30, 39, 39]]),
        torch.tensor([0, 1]),
        torch.stack([torch.from_numpy(mask).bool(), torch.zeros(40, 40, dtype=torch.bool)]),
    )
    boxes = torch.tensor([[5.0, 5, 20, 20], [0, 25, 8, 39], [30, 30, 39, 39]])
    masks = [dict(rle.encode(np.asfortranarray(mask))) for _ in boxes]
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0, 0, 1]), masks)
    assert rights(truth, found, 0.3) == (1, 1)
    drawn = draw_side_by_side(image, truth, found, ["a", "b"], threshold=0.3)
    plain = draw_side_by_side(
        image, Objects(truth.boxes, truth.labels), Detections(boxes, found.scores, found.labels), ["a", "b"]
    )
    changed = (drawn != plain).any(-1)
    half = changed.shape[1] // 2
    assert changed[:, :half].any()
    assert changed[:, half:].any()


def test_a_name_longer_than_the_picture_ends_within_it() -> None:
    image = np.full((400, 60, 3), 100, np.uint8)
    found = Detections(torch.tensor([[40.0, 200, 55, 260]]), torch.tensor([0.9]), torch.tensor([0]))
    drawn = draw_detections(image, found, [40 * "w", "b"])
    assert drawn.shape == image.shape
    assert (drawn[:190] != 100).any(), "the label is there"


def test_guesses_and_depth_without_truth(tmp_path: Path) -> None:
    guesses = [Guess(40 * "n", 0.7), Guess("$x$", 0.2, true=True)]
    assert draw_guesses(tmp_path / "g.svg", np.zeros((40, 40, 3), np.uint8), guesses, 150 * "t").is_file()
    for space in ("metres", "inverse"):
        drawn = draw_beside(np.zeros((30, 90, 3), np.uint8), np.full((30, 90), 2.0, np.float32), space)
        assert drawn.ndim == 3
