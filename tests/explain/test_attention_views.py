"""Pictures of attention, position embeddings and architectures: what is drawn where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from pvtctl.errors import UsageError
from pvtctl.explain.architecture import Box, Column, draw_architectures
from pvtctl.explain.attention_pictures import AttentionPanel, draw_attention
from pvtctl.explain.positions import Similarities, draw_positions
from pvtctl.views.figure import new_figure, save
from pvtctl.views.report import Report, ReportPicture, write_report


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_figure_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        figure = new_figure(2, 2)
        figure.add_subplot().set_title("Ångström")
        save(figure, tmp_path / f"{name}.{ending}")
    first = (tmp_path / f"a.{ending}").read_bytes()
    assert first == (tmp_path / f"b.{ending}").read_bytes()
    assert first.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    if ending == "svg":
        assert b"<text" not in first
        assert b"font-family" not in first


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write a picture as a\.jpg"):
        save(new_figure(1, 1), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_reports_inline_both(tmp_path: Path) -> None:
    pictures = []
    for ending in ("png", "svg"):
        pictures.append(ReportPicture(ending, save(new_figure(1, 1), tmp_path / f"a.{ending}")))
    page = write_report(tmp_path / "report.html", Report("R", "", parts=list(pictures))).read_text()
    assert 'src="data:image/png;base64' in page
    assert 'src="data:image/svg+xml;base64' in page


@pytest.mark.parametrize("size", [(128, 171), (64, 151), (40, 400)])
def test_words_stay_inside_of_the_picture(size: tuple[int, int]) -> None:
    panel = AttentionPanel("stage1.block1", "max 50 %", np.zeros((4, 4), np.float32), 8)
    title = f"Attention of pvt_v2_b0 (random weights) in {'abcdefghij' * 4}.jpg ({size[0]}x{size[1]})"
    figure = draw_attention(np.zeros((*size, 3), np.uint8), size, [("query", [panel])], title=title)
    figure.canvas.draw()
    inside = figure.bbox.padded(1)
    for words in (figure.texts[0], figure.axes[-1].yaxis.label):
        extent = words.get_window_extent()
        assert inside.x0 <= extent.x0 < extent.x1 <= inside.x1, words
        assert inside.y0 <= extent.y0 < extent.y1 <= inside.y1, words


def test_cells_lie_where_their_places_are() -> None:
    values = np.zeros((6, 9), np.float32)
    values[:4, 4:8] = 0.5
    values[:, 8] = np.nan
    image = np.full((48, 80, 3), 200, np.uint8)
    panel = AttentionPanel("stage1.block1", "max 50 %", values, 8, query=(5, 2), point=(20.5, 47.5))
    figure = draw_attention(image, (48, 75), [("query at 20,47", [panel])], title="Attention")
    original, drawn = figure.axes[0], figure.axes[1]
    assert (drawn.get_xlim(), drawn.get_ylim()) == ((0, 75), (48, 0))
    heat = drawn.get_images()[1]
    assert isinstance(heat, AxesImage)
    assert list(heat.get_extent()) == [0, 72, 48, 0]
    assert heat.get_interpolation() == "nearest"
    array = heat.get_array()
    assert array is not None
    assert np.ma.getmaskarray(array)[:, 8].all()
    assert heat.get_clim() == (0, 0.5)
    for axes in (original, drawn):
        boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        assert {(box.get_xy(), box.get_width()) for box in boxes} == {((16, 40), 8)}


def test_a_rollout_is_scaled_by_the_other_places() -> None:
    values = np.full((2, 2), 0.1, np.float32)
    values[0, 0] = 0.7
    panel = AttentionPanel("rollout", "", values, 16, query=(0, 0), spare_query=True)
    figure = draw_attention(np.zeros((32, 32, 3), np.uint8), (32, 32), [("", [panel])], title="")
    assert figure.axes[1].get_images()[1].get_clim()[1] == pytest.approx(0.1)


def test_similar_cells_have_one_scale() -> None:
    maps = np.zeros((4, 3, 4), np.float32)
    places = [(0, 0), (0, 2), (2, 0), (2, 2)]
    for at, (row, column) in enumerate(places):
        maps[at, row, column] = 1
    maps[1, 1, 1] = -0.34
    figure = draw_positions([[Similarities("a", maps, places), Similarities("b", maps, places)]], title="t")
    assert [figure.axes[at].get_images()[0].get_clim() for at in (0, 1)] == [pytest.approx((-0.4, 0.4))] * 2
    points = figure.axes[0].lines[0]
    assert np.asarray(points.get_xydata()).tolist() == [[0, 0], [7, 0], [0, 6], [7, 6]]


def test_every_box_is_named() -> None:
    boxes = (
        Box("Stage 1", ("2 blocks",), 1_000_000, 2_000_000_000, (64, 56, 56)),
        Box("Classifier", ("10 classes",), 5130, 5120, kind="above"),
    )
    figure = draw_architectures([Column("pvt_tiny", (224, 224), boxes, 1_005_130, 2_000_005_120)] * 2)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("64 × 56 × 56") == 2
    assert {"Stage 1", "Classifier", "2 blocks", "1.01 M parameters, 2 GMACs", "5.13 k parameters"} <= {*texts}
