"""Depth pictures: the same metres have the same colour, what is missing is grey, and files say what their values mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvtctl.errors import UsageError
from pvtctl.io.depth_png import read_depth_png, write_depth_png
from pvtctl.tasks.depth.charts import draw_depth_histogram, draw_error_by_distance, draw_image_errors
from pvtctl.tasks.depth.files import DepthCoding, decode_depth, raw_depth
from pvtctl.tasks.depth.metric import DISTANCES, NUMBERS, Distances
from pvtctl.tasks.depth.pictures import (
    NO_DEPTH,
    PANEL,
    Scale,
    colour_depth,
    draw_depth,
    draw_depth_comparison,
    write_depth,
)


def ramp(height: int = 30, width: int = 40, low: float = 1.0, high: float = 5.0) -> np.ndarray:
    return np.repeat(np.linspace(low, high, width, dtype=np.float32)[None], height, axis=0)


def lightness(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) @ [0.299, 0.587, 0.114]


def test_near_is_bright_and_missing_is_grey() -> None:
    metres = ramp()
    metres[0] = 0
    metres[1] = np.nan
    picture = colour_depth(metres, Scale.of(metres))
    assert (picture[:2] == NO_DEPTH).all()
    assert (np.diff(lightness(picture[2])) <= 0).all(), "lightness falls with distance"
    assert lightness(picture[2, 0]) > 200 > 60 > lightness(picture[2, -1])


def test_scales_end_where_the_depth_does() -> None:
    room, street = Scale.of(ramp(low=1, high=5)), Scale.of(ramp(low=2, high=80))
    assert not room.logarithmic
    assert street.logarithmic
    assert room.low == pytest.approx(1, abs=0.05)
    assert [label for _, label in room.ticks()] == ["1.0", "2", "3", "4", "5.0 m"]
    labels = [label for _, label in street.ticks()]
    assert labels[0] == "2.0"
    assert labels[-1] == "80 m"
    assert {"5", "10", "20"} <= set(labels)
    assert all(0 <= share <= 1 for share, _ in street.ticks())


@pytest.mark.parametrize(
    "metres", [np.zeros((4, 4)), np.full((4, 4), 2.0), np.full((4, 4), 1e-3), np.full((1, 1), 1e6)]
)
def test_flat_and_empty_maps_are_drawn(metres: np.ndarray) -> None:
    metres = metres.astype(np.float32)
    assert draw_depth(metres, "metres").shape[1] == draw_depth(metres, "inverse").shape[1] == 400
    image = np.zeros((*metres.shape, 3), np.uint8)
    assert draw_depth_comparison(image, metres, metres).shape[1] == 4 * PANEL + 18


def test_truth_and_prediction_share_their_colours() -> None:
    truth = ramp(PANEL, PANEL)
    picture = draw_depth_comparison(np.zeros((PANEL, PANEL, 3), np.uint8), truth, truth)
    strip = picture.shape[0] - PANEL - 80
    panels = [picture[strip + 20 : strip + 60, at * (PANEL + 6) : at * (PANEL + 6) + PANEL] for at in range(4)]
    np.testing.assert_array_equal(panels[1], panels[2])
    assert lightness(panels[3]).min() > 240, "no error is white"


def test_errors_have_two_colours_and_only_where_there_is_truth() -> None:
    truth = np.full((PANEL, PANEL), 2.0, np.float32)
    truth[:, : PANEL // 4] = 0
    prediction = truth + np.where(np.arange(PANEL) < PANEL // 2, 0.5, -0.5).astype(np.float32)
    scored = np.ones(truth.shape, bool)
    scored[:, -PANEL // 4 :] = False
    picture = draw_depth_comparison(np.zeros((PANEL, PANEL, 3), np.uint8), truth, prediction, scored)
    row = picture[200, 3 * (PANEL + 6) :].astype(int)
    far, near = row[PANEL * 3 // 8], row[PANEL * 5 // 8]
    assert far[0] > far[2] + 50, "too far is red"
    assert near[2] > near[0] + 50, "too near is blue"
    assert tuple(row[10]) == tuple(row[-10]) == NO_DEPTH


def test_laser_points_stay_visible_and_wide_images_large() -> None:
    truth = np.zeros((376, 1241), np.float32)
    truth[::12, ::12] = 10.0
    prediction = np.full(truth.shape, 11.0, np.float32)
    picture = draw_depth_comparison(np.full((*truth.shape, 3), 90, np.uint8), truth, prediction)
    width = 4 * PANEL + 18
    assert picture.shape[1] == width
    coloured = (picture[40:240, width // 2 + 10 :] != NO_DEPTH).any(axis=2)
    assert coloured.mean() > 0.05, "0.7 % of the pixels have a truth"


def test_png_of_metres_is_read_back(tmp_path: Path) -> None:
    room = ramp(low=0.0, high=9.0)
    assert write_depth_png(tmp_path / "room.png", room, space="metres") == 1000
    values, space = read_depth_png(tmp_path / "room.png")
    assert space == "metres"
    np.testing.assert_allclose(values, room, atol=0.00051)
    # Any other tool, and our own data reader, find millimetres
    np.testing.assert_allclose(
        decode_depth(raw_depth(tmp_path / "room.png"), DepthCoding(scale=1000)).numpy(), room, atol=0.00051
    )
    with Image.open(tmp_path / "room.png") as image:
        assert image.text["pvtctl:scale"] == "1000.0"
        assert image.text["Description"] == "depth: value / 1000 = metres, 0 = no depth"
    assert write_depth_png(tmp_path / "street.png", ramp(high=80.0), space="metres") == 256
    np.testing.assert_allclose(read_depth_png(tmp_path / "street.png")[0], ramp(high=80.0), atol=0.002)
    assert write_depth_png(tmp_path / "land.png", ramp(high=2000.0), space="metres") < 40


def test_png_in_corners(tmp_path: Path) -> None:
    values = ramp(low=1, high=3)
    values[0, :4] = [np.nan, np.inf, -1, 1e-5]
    values[0, 4] = 1e6  # sky: the others keep their millimetres of 256 to a metre
    assert write_depth_png(tmp_path / "a.png", values, space="metres") == 256
    found, _ = read_depth_png(tmp_path / "a.png")
    assert found[0, :3].tolist() == [0, 0, 0]
    assert found[0, 3] > 0, "a depth never becomes none"
    assert found[0, 4] == pytest.approx(256, abs=0.01)
    write_depth_png(tmp_path / "none.png", np.zeros((3, 4)), space="metres")
    assert not read_depth_png(tmp_path / "none.png")[0].any()


def test_png_of_inverse_depth_is_read_back(tmp_path: Path) -> None:
    inverse = ramp(low=0.0, high=2700.0)
    write_depth_png(tmp_path / "a.png", inverse, space="inverse")
    values, space = read_depth_png(tmp_path / "a.png")
    assert space == "inverse"
    np.testing.assert_allclose(values, inverse, atol=0.03)


def test_other_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.uint16)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "text.png", "missing.png"):
        with pytest.raises(UsageError, match="not a depth file of pvtctl"):
            read_depth_png(tmp_path / name)


def test_predictions_come_as_three_files(tmp_path: Path) -> None:
    files = write_depth(tmp_path / "out", "frame", ramp(), space="metres")
    assert {kind: path.name for kind, path in files.items()} == {
        "png": "frame.png",
        "npy": "frame.npy",
        "view": "frame_view.png",
    }
    assert np.load(files["npy"]).dtype == np.float32
    np.testing.assert_array_equal(np.load(files["npy"]), ramp())
    assert np.asarray(Image.open(files["view"])).shape[2] == 3


@pytest.mark.slow
@pytest.mark.parametrize("images", [0, 1, 30])
def test_charts_of_any_size(tmp_path: Path, images: int) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 1000, len(DISTANCES) - 1) * (images > 0)
    error = np.where(counts > 0, 0.1, np.nan)
    rows = np.zeros(images, [(name, np.float32) for name in NUMBERS])
    distances = Distances(counts, counts[::-1].copy(), error, -error)
    for draw, what in (
        (draw_error_by_distance, distances),
        (draw_depth_histogram, distances),
        (draw_image_errors, rows),
    ):
        path = draw(tmp_path / f"{draw.__name__}.png", what, "metric depth, $not aligned; no crop")  # type: ignore[operator]
        assert np.asarray(Image.open(path)).std() > 5
