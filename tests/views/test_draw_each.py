"""A picture that cannot be drawn costs nothing but itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvtctl.errors import PvtctlError
from pvtctl.io.stop import StopNow
from pvtctl.views.draw import draw_each


def test_the_others_are_drawn_and_the_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> Path:
        raise error

    drawn = draw_each(
        {
            "first": lambda: Path("a.png"),
            "wrong": lambda: fail(ValueError("can't measure length of multiline text\nmore")),
            "silent": lambda: fail(KeyError()),
            "full": lambda: fail(PvtctlError("the disk is full")),
            "none": lambda: None,
            "last": lambda: Path("b.png"),
        }
    )
    assert drawn == {"first": Path("a.png"), "last": Path("b.png")}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[0] == "warning: the picture `wrong` could not be drawn: can't measure length of multiline text"
    assert "KeyError" in said[1]
    assert "the disk is full" in said[2]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StopNow(15)])
def test_who_stops_it_stops_it(error: BaseException) -> None:
    def stop() -> Path:
        raise error

    with pytest.raises(type(error)):
        draw_each({"picture": stop})
