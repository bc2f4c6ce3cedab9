"""What a detection metric shows people: pictures, tables and the JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvtctl.data.detection import DetectionDataset
from pvtctl.metrics.detection import DetectionMetric
from pvtctl.structures import Detections
from pvtctl.views.report import Table

# Matplotlib takes a second to import: the views are imported where something is drawn.

SAMPLES = "samples"
"""Folder in a run with a sheet of detections for each evaluated epoch."""


class DetectionAccount:
    """`pvtctl.tasks.reports.Account` of detections on a data set's validation images."""

    score = "AP"

    def __init__(self, dataset: DetectionDataset, metric: DetectionMetric, samples: Mapping[int, Detections]) -> None:
        self.dataset = dataset
        self.metric = metric
        self.samples = samples

    def pictures(self, folder: Path) -> dict[str, Path]:
        return {}

    def tables(self) -> list[Table]:
        return []

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        return "", ["x"], []

    def document(self) -> dict[str, Any]:
        return {}

    def notes(self) -> list[str]:
        return []

    def files(self, folder: Path) -> dict[str, Path]:
        return {}


def draw_samples(path: Path, dataset: DetectionDataset, samples: Mapping[int, Detections]) -> None:
    return
