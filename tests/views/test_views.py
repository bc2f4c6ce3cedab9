"""Pictures are written whole, at the size promised, for the ordinary and the odd case."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pvtctl.tasks.classification.metric import ReliabilityBin
from pvtctl.tasks.classification.pictures import SheetImage, draw_calibration, draw_confusion, draw_image_sheet
from pvtctl.tasks.registry import task_spec
from pvtctl.views.curves import draw_curves, running_mean
from pvtctl.views.report import Report, ReportPicture, ReportTable, Text, write_report


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("points", [0, 1, 100])
def test_curves(tmp_path: Path, points: int) -> None:
    training = [{"step": at, "loss": 2.0 / (at + 1), "lr": 1e-3} for at in range(points)]
    evaluations = [{"step": at, "loss": 1.0, "top1": 0.5} for at in range(0, points, 10)]
    if points > 2:
        training[3]["loss"] = float("nan")
    path = draw_curves(
        tmp_path / "curves.png",
        training=training,
        evaluations=evaluations,
        steps_per_epoch=10,
        labels=task_spec("classification").curves,
        paper_score=0.75,
    )
    assert size_of(path) == (1560, 480)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"], "no temporary file stays"


def test_running_mean_of_a_short_window() -> None:
    assert running_mean([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("classes", [1, 12, 70])
def test_confusion_of_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    matrix = torch.randint(0, 5, (classes, classes + 1), generator=torch.Generator().manual_seed(0))
    path = draw_confusion(tmp_path / "confusion.png", matrix, [f"$class_{at}^" for at in range(classes)])
    width, height = size_of(path)
    assert 400 < width < 2400
    assert 400 < height < 2400


def test_calibration(tmp_path: Path) -> None:
    bins = [ReliabilityBin(at / 15, (at + 1) / 15, at, (at + 0.5) / 15, at / 15) for at in range(15)]
    assert size_of(draw_calibration(tmp_path / "calibration.png", bins, 0.1)) == (648, 696)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_sheet_with_any_script_and_number_of_images(tmp_path: Path, count: int) -> None:
    pixels = np.zeros((32, 48, 3), dtype=np.uint8)
    images = [SheetImage(pixels, "狗", random.choice(["狗", "cat"]), 0.5, "val/狗/1.jpg", 2.5) for _ in range(count)]
    assert draw_image_sheet(tmp_path / "sheet.png", images, "Worst $ images").stat().st_size > 1000


def test_report_is_self_contained_and_escapes(tmp_path: Path) -> None:
    picture = draw_image_sheet(tmp_path / "sheet.png", [], "none")
    report = Report("run <1>", "done & dusted", warnings=["not <comparable>"])
    report.parts += [
        ReportTable("Results", ["metric", "here", "paper"], [["top-1, %", "10.0", "75.1"], ["loss", "2.1", "-"]]),
        ReportPicture("Sheet", picture),
        ReportPicture("Missing", tmp_path / "none.png"),
        Text("Recipe", "a: <b>"),
    ]
    page = write_report(tmp_path / "report.html", report).read_text()
    assert "run &lt;1&gt;" in page
    assert "not &lt;comparable&gt;" in page
    assert '<td>top-1, %</td><td class="number">10.0</td>' in page
    assert "data:image/png;base64," in page
    assert "Missing" not in page
    assert 'src="http' not in page
    assert "href=" not in page
