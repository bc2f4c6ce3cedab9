"""ordinal.csv: which of two points is nearer, and every way to write it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pvtctl.errors import UsageError
from pvtctl.tasks.depth.errors import read_ordinal_pairs, whdr

HEAD = "image,y1,x1,y2,x2,nearer\n"


def test_pairs_are_read_and_scored(tmp_path: Path) -> None:
    (tmp_path / "ordinal.csv").write_text(HEAD + "a.png,0,0,1,1,1\na.png,0,1,1,0,2\nb.png,1,1,0,0,2\n")
    pairs = read_ordinal_pairs(tmp_path, {"a.png", "b.png", "c.png"})
    assert pairs["a.png"].tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 0, -1]]
    metres = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert whdr(metres, pairs["a.png"], "metres") == (1, 2)
    assert whdr(metres, pairs["b.png"], "metres") == (0, 1)


def test_most_sets_have_none(tmp_path: Path) -> None:
    assert read_ordinal_pairs(tmp_path, {"a.png"}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,y1,x1,y2,x2\n", "has no column nearer"),
        ("", "has no column image"),
        (HEAD + "a.png,0,0,1,1,3\n", r"ordinal\.csv:2: not four whole numbers"),
        (HEAD + "a.png,0,0,1,1,1\na.png,0,zero,1,1,1\n", r"ordinal\.csv:3: not four whole numbers"),
        (HEAD + "a.png,0,0\n", r"ordinal\.csv:2: not four whole numbers"),
        (HEAD + "aa.png,0,0,1,1,1\n", r"ordinal\.csv:2: no image 'aa\.png'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ordinal.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_ordinal_pairs(tmp_path, {"a.png"})


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ordinal.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(UsageError, match="cannot be read"):
        read_ordinal_pairs(tmp_path, {"a.png"})
