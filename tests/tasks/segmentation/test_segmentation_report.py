"""What people are shown of a segmentation metric."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pvtctl.data.images import BadImage
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.segmentation.metric import SegmentationMetric
from pvtctl.tasks.segmentation.report import SegmentationReport, draw_segmentation_samples

NAMES = ["sky", "road", "car $5$", "ghost"]


class Source:
    """Images of two rows of classes; one image cannot be read."""

    class_names = NAMES
    palette = None
    unreadable = ""

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return f"{index}.png"

    def pixels(self, index: int) -> Tensor:
        if self.name(index) == self.unreadable:
            raise BadImage("gone")
        return torch.full((3, 20, 30), 40 * index, dtype=torch.uint8)

    def target(self, index: int) -> Tensor:
        labels = torch.zeros(20, 30, dtype=torch.uint8)
        labels[10:] = 1
        labels[:2] = 255
        return labels

    def digest(self, indices: object) -> str:
        return ""


class Transform:
    """Nothing is changed."""

    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return pixels, target

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        return pixels


def account(unreadable: str = "") -> SegmentationReport:
    source = Source()
    source.unreadable = unreadable
    dataset = DenseDataset(source, Transform(), training=False)
    metric = SegmentationMetric(NAMES)
    samples = {}
    for at in range(4):
        truth = source.target(at).numpy()
        found = truth.copy()
        found[10 : 10 + at] = 2
        found[5, :at] = 255
        samples[at] = found
        metric.add(torch.from_numpy(found), torch.from_numpy(truth), source.name(at))
    return SegmentationReport(dataset, metric, {0: samples[0], 3: samples[3]})


@pytest.mark.draws
def test_pictures(tmp_path: Path) -> None:
    drawn = account().pictures(tmp_path)
    assert [path.name for path in drawn.values()] == ["segmentation.png", "worst.png", "confusion.png", "classes.png"]
    with Image.open(tmp_path / "segmentation.png") as few, Image.open(tmp_path / "worst.png") as all_four:
        assert few.size[0] == all_four.size[0]
        assert few.size[1] < all_four.size[1]


@pytest.mark.parametrize("unreadable", ["0.png", "3.png"])
def test_images_that_are_gone_are_left_out(tmp_path: Path, unreadable: str) -> None:
    whole = draw_segmentation_samples(tmp_path / "a.png", account().dataset, account().samples)
    rest = draw_segmentation_samples(tmp_path / "b.png", account(unreadable).dataset, account().samples)
    with Image.open(whole) as two, Image.open(rest) as one:
        assert one.size[1] < two.size[1]


def test_tables_and_document() -> None:
    shown = account()
    (table,) = shown.tables()
    assert [row[0] for row in table.rows] == ["car $5$", "road", "sky", "ghost"], "worst first, absent ones last"
    assert table.rows[0] == ["car $5$", "0.00", "0.0", "-", "0.0", "0.0"]
    assert table.rows[-1][1:] == ["0.00", "-", "-", "-", "-"]
    title, columns, rows = shown.terminal()
    assert (title, len(columns), len(rows)) == ("Classes, worst first", 6, 4)
    document = json.loads(json.dumps(shown.document()))
    assert [image["id"] for image in document["worst"]] == ["3.png", "2.png", "1.png", "0.png"]
    assert np.sum(document["confusion"]) == 4 * 18 * 30
    assert document["classes"][1]["name"] == "road"


def test_notes_say_what_does_not_count() -> None:
    notes = " ".join(account().notes())
    assert "neither ground truth nor prediction, left out of the mean IoU: ghost." in notes
    assert "IoU of 0: car $5$." in notes
    assert "a class that the data does not have, counted as wrong: 0.3 %" in notes
    metric = SegmentationMetric(NAMES)
    empty = SegmentationReport(account().dataset, metric, {})
    assert empty.notes() == ["miou is unknown: no image was read"]


@pytest.mark.draws
def test_an_empty_metric_is_drawn(tmp_path: Path) -> None:
    empty = SegmentationReport(account().dataset, SegmentationMetric(NAMES), {})
    assert list(empty.pictures(tmp_path)) == ["Confusion", "Classes"]
    assert len(empty.terminal()[2]) == 4


def test_files_for_other_programs(tmp_path: Path) -> None:
    files = account().files(tmp_path)
    with files["confusion"].open(encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
    assert header[1:5] == NAMES
    assert rows[1][:1] == ["road"]
    assert [int(cell) for cell in rows[1][1:]] == [0, 4 * 300 - 6 * 30, 6 * 30, 0, 0]
    with files["classes"].open(encoding="utf-8") as handle:
        assert len(list(csv.reader(handle))) == 5
