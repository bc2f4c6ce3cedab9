"""The picture of GMACs against size."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pvtctl.cost.counting import Cost
from pvtctl.cost.plot import plot_costs

pytestmark = pytest.mark.draws


def _cost(name: str, side: int, gmacs: float) -> Cost:
    return Cost(name, "classifier", (side, side), 1000, 1, 1, int(gmacs * 1e9), "ops", (), {})


@pytest.mark.parametrize("ends", [(100, 90), (800, 90), (5,)])
def test_a_picture_is_written(tmp_path: Path, ends: tuple[float, ...]) -> None:
    costs = [_cost(f"net{at}", side, end * side / 400) for at, end in enumerate(ends) for side in (400, 200)]
    plot_costs(costs, tmp_path / "new" / "cost.png")
    with Image.open(tmp_path / "new" / "cost.png") as picture:
        assert min(picture.size) > 500
        assert len(set(picture.convert("L").tobytes())) > 2


def test_one_point_and_svg(tmp_path: Path) -> None:
    plot_costs([_cost("net", 224, 3.8)], tmp_path / "cost.svg")
    assert "<svg" in (tmp_path / "cost.svg").read_text()
