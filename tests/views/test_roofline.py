"""Parts of a model under the limits of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pvtctl.errors import UsageError
from pvtctl.views import scatter
from pvtctl.views.roofline import RooflinePart, _names, draw_roofline

PARTS = [
    RooflinePart("backbone.stages.0.blocks.0-2.attn", 0.3, 4e9, 4e8),
    RooflinePart("backbone.stages.0.blocks.0-2.mlp", 0.5, 9e9, 1e8),
    RooflinePart("backbone.stages.0.blocks.0-2.norm1", 0.1, 0.0, 2e9),
    RooflinePart("head", 0.005, 1e9, 1e9),
    RooflinePart("neck.0", 0.0005, 1e9, 1e9),
    RooflinePart("model.rest", 0.1, 0.0, 0.0),
]


def test_limits_points_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(scatter, "save", lambda figure, path, **options: figures.append(figure))
    draw_roofline(tmp_path / "a.png", PARTS, 1e10, 4e9, title="One model")
    (axes,) = figures[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    memory, products = [
        line.get_xydata() for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2
    ]
    assert (memory[1] == products[0]).all()  # the ridge
    assert memory[1].tolist() == [2.5, 10.0]
    assert memory[0][1] == pytest.approx(4 * memory[0][0])
    points: list[Any] = [line for line in axes.lines if str(line.get_marker()) in scatter.MARKERS]
    places = [(line.get_xdata()[0], line.get_ydata()[0]) for line in points]
    assert np.allclose(places[:2], [(10, 4), (90, 9)])
    # without arithmetic: at the left edge, half of the memory's limit there
    assert places[2] == pytest.approx((memory[0][0], memory[0][1] / 2))
    assert points[2].get_markerfacecolor() == "white"
    assert len(points) == 4
    labels = {text.get_text().strip() for text in axes.texts}
    assert {"attn 30%", "mlp 50%", "norm1 10%", "memory, 4 GB/s", "products, 10 GMAC/s"} <= labels
    assert not [label for label in labels if "head" in label]
    assert axes.get_xlabel().endswith("without a name: 2 parts below 1% of the time, 0.5% together")


def test_it_is_a_picture(tmp_path: Path) -> None:
    draw_roofline(tmp_path / "a.png", PARTS, 1e10, 4e9, title="One model")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 500
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_roofline(tmp_path / "b.png", PARTS[-1:], 1e10, 4e9, title="None")


@pytest.mark.parametrize(
    ("name", "group", "label"),
    [
        ("backbone.stages.0.blocks.0-2.attn", "backbone.stages.0", "attn"),
        ("backbone.stages.0.rest", "backbone.stages.0", "rest"),
        ("head.narrow.3", "head.narrow", "narrow.3"),
        ("neck", "neck", "neck"),
        ("backbone.norm", "backbone", "norm"),
    ],
)
def test_groups(name: str, group: str, label: str) -> None:
    assert _names(name) == (group, label)
