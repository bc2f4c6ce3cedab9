"""Points with names: labels keep off points and stay inside, pictures are repeatable."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image

from pvtctl.errors import UsageError
from pvtctl.views import scatter
from pvtctl.views.scatter import Point, ScatterPanel, draw_scatters, pareto_front

CROWD = [
    Point(f"pvt_model_{at}", 20 + 3 * (at % 4), 40 + 0.8 * (at // 4), f"family {at % 3}", y_error=0.2)
    for at in range(12)
]


def draw_points(path: Path, points: list[Point], hollow: str | None = None) -> Path:
    panel = ScatterPanel(points, "parameters, M", "box AP, %")
    return draw_scatters(path, [panel], title="Box AP against parameters", hollow=hollow)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path, **options: Any) -> Path:
        figures.append(figure)
        return path

    monkeypatch.setattr(scatter, "save", keep)
    return figures


def notes(figure: Figure) -> list[tuple[str, Bbox]]:
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for axes in figure.axes
        for text in axes.texts
        if isinstance(text, Annotation) and text.get_text()
    ]


def overlap(one: Bbox, other: Bbox) -> float:
    width, height = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def test_labels_overlap_neither_points_nor_each_other_nor_the_edge(drawn: list[Figure], tmp_path: Path) -> None:
    draw_points(tmp_path / "a.png", CROWD)
    (figure,) = drawn
    labels = notes(figure)
    assert sorted(name for name, _ in labels) == sorted(point.label for point in CROWD)
    inside = figure.axes[0].get_window_extent()
    for name, box in labels:
        assert overlap(box, inside) == pytest.approx(box.width * box.height), f"{name} leaves the axes"
        for point in CROWD:
            x, y = figure.axes[0].transData.transform((point.x, point.y))
            assert overlap(box, Bbox.from_extents(x - 3, y - 3, x + 3, y + 3)) == 0, f"{name} hides {point.label}"
    for (one, a), (other, b) in itertools.combinations(labels, 2):
        assert overlap(a, b) < 0.02 * a.width * a.height, f"{one} over {other}"


def test_labels_stay_near_their_points_and_lines_lead_to_the_others(drawn: list[Figure], tmp_path: Path) -> None:
    """Ten backbones of a probe, close to each other, with long error bars."""
    scores = [15.28, 14.44, 14.2, 13.09, 12.29, 12.05, 11.97, 10.65, 10.59, 9.95]
    costs = [3.66, 1.43, 1.14, 0.97, 0.67, 0.48, 1.85, 1.59, 1.79, 1.14]
    points = [
        Point(f"backbone_name_{at}@0.25", x, y, y_error=1.6)
        for at, (x, y) in enumerate(zip(costs, scores, strict=True))
    ]
    draw_scatters(
        tmp_path / "a.png", [ScatterPanel(points, "x", "y", front=True), ScatterPanel(points[:3], "x", "y")], title=""
    )
    (figure,) = drawn
    ties = {note.xy for axes in figure.axes for note in axes.texts if isinstance(note, Annotation) and note.arrow_patch}
    for name, box in notes(figure)[:10]:
        point = points[int(name.split("_")[2][0])]
        x, y = figure.axes[0].transData.transform((point.x, point.y))
        away = math.hypot(x - min(max(x, box.x0), box.x1), y - min(max(y, box.y0), box.y1)) * 72 / figure.dpi
        assert away < 45
        assert (away > 16) <= ((point.x, point.y) in ties)


def test_a_family_looks_the_same_whichever_others_are_drawn(drawn: list[Figure], tmp_path: Path) -> None:
    def looks(*groups: str) -> dict[str, tuple[Any, Any]]:
        draw_points(tmp_path / "a.png", [Point("", at + 1, at, group) for at, group in enumerate(groups)])
        lines = [line for line in drawn[-1].axes[0].lines if str(line.get_marker()) in scatter.MARKERS]
        return {group: (line.get_color(), line.get_marker()) for group, line in zip(groups, lines, strict=True)}

    whole = looks("own", *scatter.FAMILIES, "another")
    assert len(set(whole.values())) == len(whole)
    for groups in (("timm", "own"), ("vit", "resnet", "own"), ("own", "pvt_v2")):
        assert looks(*groups) == {group: whole[group] for group in groups}


def test_groups_differ_in_colour_and_marker(drawn: list[Figure], tmp_path: Path) -> None:
    many = [Point("", at, at, f"g{at}") for at in range(20)]
    draw_points(tmp_path / "a.png", many)
    lines = [line for line in drawn[0].axes[0].lines if str(line.get_marker()) in scatter.MARKERS]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 20
    assert len(drawn[0].legends[0].texts) == 20


def test_one_group_needs_no_legend_and_hollow_points_are_explained(drawn: list[Figure], tmp_path: Path) -> None:
    draw_points(tmp_path / "a.png", [Point("one", 1, 2)])
    assert not drawn[0].legends
    draw_points(tmp_path / "a.png", [Point("one", 1, 2, hollow=True)], hollow="printed")
    assert [text.get_text() for text in drawn[1].legends[0].texts] == ["printed"]


def test_costs_of_different_magnitude_get_a_logarithmic_axis(drawn: list[Figure], tmp_path: Path) -> None:
    panels = [ScatterPanel([Point("a", 1, 1), Point("b", x, 2)], f"{x}", "y") for x in (3, 300)]
    draw_scatters(tmp_path / "a.png", panels, title="Two")
    assert [axes.get_xscale() for axes in drawn[0].axes] == ["linear", "log"]


def test_pictures_are_files_of_both_kinds_and_repeat(tmp_path: Path) -> None:
    points = [Point("$a_b", 1.0, 2.0), Point("no figure", math.nan, 1.0), Point("名", 1.0, 2.5, x_error=0.1)]
    draw_points(tmp_path / "a.png", points)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 500
    texts = [draw_points(tmp_path / f"{name}.svg", points).read_bytes() for name in "bc"]
    assert texts[0] == texts[1]
    assert texts[0].startswith(b"<?xml")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_points(tmp_path / "a.png", [Point("a", math.inf, 1)])


def test_the_pareto_front_is_what_no_other_point_beats() -> None:
    points = [(3.0, 5.0), (1.0, 1.0), (2.0, 4.0), (2.0, 3.0), (4.0, 5.0), (1.5, 0.5), (2.0, 4.0)]
    assert [points[at] for at in pareto_front(points)] == [(1.0, 1.0), (2.0, 4.0), (2.0, 4.0), (3.0, 5.0)]
    assert [points[at] for at in pareto_front(points, higher_is_better=False)] == [(1.0, 1.0), (1.5, 0.5)]
    assert pareto_front([]) == []
