"""What is shown of a depth metric: worst images first, how it was measured beside every number, nothing that is gone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pvtctl.data.images import BadImage
from pvtctl.data.samplers import Draw
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.metric import NUMBERS, DepthMetric
from pvtctl.tasks.depth.report import DepthReport, draw_depth_samples


class Ramps:
    """Images of 30x40 pixels, each a slope of depth from 1 m to (its number + 2) m; the last has no truth."""

    class_names: list[str] = []
    palette = None
    gone: set[int] = set()

    def __len__(self) -> int:
        return 8

    def name(self, index: int) -> str:
        return f"room/{index}.png"

    def pixels(self, index: int) -> Tensor:
        if index in self.gone:
            raise BadImage("gone")
        return torch.full((3, 30, 40), 20 * index, dtype=torch.uint8)

    def target(self, index: int) -> Tensor:
        depth = torch.linspace(1, index + 2, 40).repeat(30, 1)
        depth[:10] = 0
        return depth * (index < 7)

    def digest(self, indices: NDArray[np.int64]) -> str:
        return "ramps"


class AsIs:
    def train(self, pixels: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return pixels, target

    def evaluate(self, pixels: Tensor, ratio: float = 1.0) -> Tensor:
        return pixels


def account() -> DepthReport:
    """Image k is predicted 1 + k/10 times too far away."""
    source = Ramps()
    dataset = DenseDataset(source, AsIs(), training=False)
    metric = DepthMetric(space="metres", alignment="none", max_depth=20.0)
    samples = {}
    for at in range(8):
        target = source.target(at)
        output = torch.where(target > 0, target, 3.0) * (1 + at / 10)
        metric.update([output], dataset.collate(dataset.__getitems__([Draw(0, at)])))
        if at % 4 == 0:
            samples[at] = output.numpy().astype(np.float16)
    return DepthReport(dataset, metric, samples)


@pytest.fixture(scope="module")
def shown() -> DepthReport:
    return account()


def test_tables_are_worst_first(shown: DepthReport) -> None:
    title, columns, rows = shown.terminal()
    assert title == "Images, worst first"
    assert [row[0] for row in rows] == [f"room/{at}.png" for at in (6, 5, 4, 3, 2, 1, 0)]
    assert dict(zip(columns, rows[0], strict=True)) | {"rmse, m": "", "silog": "", "log10": ""} == {
        "image": "room/6.png",
        "pixels": 800,
        "abs_rel": "0.600",
        "rmse, m": "",
        "log10": "",
        "silog": "",
        "delta1": "0.000",
        "delta2": "0.000",
    }
    assert len(shown.tables()[0].rows) == 7


def test_notes_say_how_it_was_measured(shown: DepthReport) -> None:
    notes = shown.notes()
    assert notes == [
        f"Measured in {shown.metric.describe()}.",
        "5,600 pixels of 7 images were scored, 66.7 % of all in them.",
        "1 image(s) have no pixel to score and are not counted.",
    ]


def test_document_is_plain_json(shown: DepthReport) -> None:
    document = json.loads(json.dumps(shown.document(), allow_nan=False))
    assert document["measured"]["sentence"] == shown.metric.describe()
    assert document["measured"]["max_depth"] == 20
    assert sum(each["truth"] for each in document["distances"]) == 5600
    assert {each["abs_rel"] is None for each in document["distances"] if not each["truth"]} <= {True}


def test_files_hold_every_number(shown: DepthReport, tmp_path: Path) -> None:
    files = shown.files(tmp_path)
    with files["per image"].open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["image"] for row in rows] == [f"room/{at}.png" for at in range(7)]
    for name in NUMBERS:
        mean = np.mean([float(row[name]) for row in rows])
        assert mean == pytest.approx(shown.metric.compute()[name], rel=1e-4, abs=1e-6)


@pytest.mark.draws
def test_pictures(shown: DepthReport, tmp_path: Path) -> None:
    pictures = shown.pictures(tmp_path)
    assert list(pictures) == [
        "Sample images: truth, prediction and error",
        "The worst images, by abs_rel",
        "Error by distance",
        "True and predicted distances",
        "Errors of single images",
    ]
    assert all(np.asarray(Image.open(path)).std() > 5 for path in pictures.values())


def test_images_that_are_gone_are_left_out(shown: DepthReport, tmp_path: Path) -> None:
    shown.dataset.source.gone = {6, 4}  # type: ignore[attr-defined]
    try:
        pictures = shown.pictures(tmp_path)
    finally:
        shown.dataset.source.gone = set()  # type: ignore[attr-defined]
    with Image.open(pictures["The worst images, by abs_rel"]) as picture:
        four = picture.height
    with Image.open(shown.pictures(tmp_path)["The worst images, by abs_rel"]) as picture:
        assert four < picture.height


def test_samples_of_inverse_depth_are_aligned_as_they_are_scored(tmp_path: Path) -> None:
    source = Ramps()
    dataset = DenseDataset(source, AsIs(), training=False)
    metric = DepthMetric(space="inverse", alignment="scale_shift", max_depth=20.0)
    samples = {at: (7 / source.target(6).numpy().clip(1) + 3).astype(np.float16) for at in (6, 7)}
    path = draw_depth_samples(tmp_path / "samples" / "epoch_001.png", dataset, samples, metric)
    with Image.open(path) as picture:
        assert picture.width > 1600


@pytest.mark.draws
def test_nothing_at_all_is_still_an_account(tmp_path: Path) -> None:
    dataset = DenseDataset(Ramps(), AsIs(), training=False)
    nothing = DepthReport(dataset, DepthMetric(space="metres", alignment="none"), {})
    assert len(nothing.pictures(tmp_path)) == 3
    assert nothing.terminal()[2] == []
    assert nothing.document()["distances"] == []
    assert len(nothing.notes()) == 1
    assert nothing.files(tmp_path)["per image"].read_text("utf-8").count("\n") == 1
