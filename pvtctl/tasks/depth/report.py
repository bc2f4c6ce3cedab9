"""Report of a depth metric: pictures, tables and the JSON document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.io.names import plural
from pvtctl.io.tables import write_csv
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import Predictor
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.dense.report import DenseComparer, comparison_tiles, draw_rows
from pvtctl.tasks.depth.build import depth_scoring
from pvtctl.tasks.depth.metric import DISTANCES, LONGEST_MAP, NUMBERS, DepthMetric
from pvtctl.tasks.depth.predict import DepthMap
from pvtctl.views.draw import draw_each
from pvtctl.views.report import ReportTable

# Matplotlib takes a second to import: the views are imported where something is drawn.

MOST_ROWS = 10
"""Images in the table in the terminal; per_image.csv has all."""
REPORT_ROWS = 30


class DepthReport:
    """`pvtctl.tasks.base.EvaluationReport` of depth on a data set's validation images."""

    score = "delta1"

    def __init__(self, dataset: DenseDataset, metric: DepthMetric, samples: Mapping[int, NDArray[Any]]) -> None:
        self.dataset = dataset
        self.metric = metric
        self.samples = samples

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Samples, the worst images, and charts. Missing images are left out."""
        from pvtctl.tasks.depth.charts import draw_depth_histogram, draw_error_by_distance, draw_image_errors

        metric = self.metric
        measured, distances = metric.describe(), metric.distances()

        def samples() -> Path | None:
            path = folder / "depth.png"
            return draw_depth_samples(path, self.dataset, self.samples, metric) if self.samples else None

        def worst() -> Path | None:
            tiles = comparison_tiles(self.dataset, metric.worst_maps, self._worst)
            return draw_rows(folder / "worst.png", tiles) if tiles else None

        by_distance, histogram, errors = (
            folder / f"{name}.png" for name in ("error_by_distance", "distances", "image_errors")
        )
        return draw_each(
            {
                "Sample images: truth, prediction and error": samples,
                "The worst images, by abs_rel": worst,
                "Error by distance": lambda: draw_error_by_distance(by_distance, distances, measured),
                "True and predicted distances": lambda: draw_depth_histogram(histogram, distances, measured),
                "Errors of single images": lambda: draw_image_errors(errors, metric.rows(), measured),
            }
        )

    def _worst(self, pixels: Tensor, target: Tensor, metres: NDArray[Any], name: str) -> tuple[str, RgbImage]:
        """Title and picture of one of the images with the largest errors, whose predictions the metric kept."""
        worst = self.metric.worst(len(self.metric.worst_maps))
        row = next(row for row in worst if self.dataset.name(row["index"]) == name)
        title = f"{name}: abs_rel {row['abs_rel']:.3f}, delta1 {row['delta1']:.3f}, {row['pixels']} pixels scored"
        return title, depth_comparison(pixels, target, metres.astype(np.float32), self.metric)

    def tables(self) -> list[ReportTable]:
        """The worst images."""
        rows = [[str(cell) for cell in row] for row in self._rows(REPORT_ROWS)]
        return [ReportTable("Images, worst first", self._columns(), rows)]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst images: title, columns, rows."""
        rows, images = self._rows(MOST_ROWS), len(self.metric.rows())
        title = "Images, worst first" if len(rows) == images else f"The {len(rows)} worst of {plural(images, 'image')}"
        return title, self._columns(), rows

    def _columns(self) -> list[str]:
        return ["image", "pixels", "abs_rel", "rmse, m", "log10", "silog", "delta1", "delta2"]

    def _rows(self, count: int) -> list[list[Any]]:
        names = ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2")
        return [
            [self.dataset.name(row["index"]), int(row["pixels"]), *(f"{row[name]:.3f}" for name in names)]
            for row in self.metric.worst(count)
        ]

    def document(self) -> dict[str, Any]:
        """For `--json`: how it was measured, and the errors by distance if there are any."""
        metric, distances = self.metric, self.metric.distances()
        return {
            "measured": {
                "sentence": metric.describe(),
                "space": metric.space,
                "alignment": metric.alignment,
                "crop": metric.crop,
                "min_depth": metric.min_depth,
                "max_depth": metric.max_depth,
            },
            "distances": [
                {
                    "from": float(DISTANCES[at]),
                    "to": float(DISTANCES[at + 1]),
                    "truth": int(distances.truth[at]),
                    "predicted": int(distances.predicted[at]),
                    "abs_rel": _finite(distances.abs_rel[at]),
                    "bias": _finite(distances.bias[at]),
                }
                for at in np.flatnonzero(distances.truth + distances.predicted).tolist()
            ],
        }

    def notes(self) -> list[str]:
        """How it was measured, on how many pixels, and what was left out."""
        metric, rows = self.metric, self.metric.rows()
        sentence = metric.describe()
        notes = [f"Measured in {sentence}."]
        if len(rows):
            pixels = int(rows["pixels"].sum(dtype=np.int64))
            share = 100 * pixels / max(metric.all_pixels, 1)
            notes.append(f"{pixels:,} pixels of {len(rows)} images were scored, {share:.1f} % of all in them.")
        if metric.all_pairs:
            notes.append(f"whdr: {metric.wrong_pairs:,} of {metric.all_pairs:,} ordinal pairs are ordered wrongly.")
        if metric.without_truth:
            notes.append(f"{metric.without_truth} image(s) have no pixel to score and are not counted.")
        if metric.nonfinite:
            notes.append(
                f"The outputs of {metric.nonfinite} image(s) are not finite everywhere; such pixels were scored as the "
                "largest or smallest of their image."
            )
        return notes

    def files(self, folder: Path) -> dict[str, Path]:
        """Write all numbers of all images as a table."""
        rows = [
            [self.dataset.name(row["index"]), int(row["pixels"]), *(f"{float(row[number]):.6g}" for number in NUMBERS)]
            for row in self.metric.rows()
        ]
        return {"per image": write_csv(folder / "per_image.csv", [["image", "pixels", *NUMBERS], *rows])}


def draw_depth_samples(
    path: Path, dataset: DenseDataset, samples: Mapping[int, NDArray[Any]], metric: DepthMetric
) -> Path:
    """Write a sheet of a few validation images: image, ground truth, prediction and error, each pair on one scale.

    `samples` are a task's outputs by position in the split, float16 (H, W) metres or inverse depth; `metric` aligns them
    as it would score them. Images that cannot be read are left out.
    """

    def draw(pixels: Tensor, target: Tensor, output: NDArray[Any], name: str) -> tuple[str, RgbImage]:
        metres = metric.metres(torch.from_numpy(output.astype(np.float32)), target)
        return name, depth_comparison(pixels, target, metres.numpy(), metric)

    return draw_rows(path, comparison_tiles(dataset, dict(sorted(samples.items())), draw))


def depth_comparison(pixels: Tensor, target: Tensor, metres: NDArray[np.float32], metric: DepthMetric) -> RgbImage:
    """The four pictures of an image; a thinned prediction is compared with the ground truth at the same pixels."""
    from pvtctl.tasks.depth.pictures import draw_depth_comparison

    step = 1 if target.shape == metres.shape else -(-max(target.shape) // LONGEST_MAP)
    truth, scored = target[::step, ::step], metric.valid(target)[::step, ::step]
    return draw_depth_comparison(to_rgb(pixels), truth.numpy(), metres, scored.numpy())


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


class DepthComparer(DenseComparer):
    """Depth next to the ground truth of a split; images are ranked by AbsRel, aligned as in the recipe's `eval`."""

    def __init__(self, predictor: Predictor, recipe: Recipe, split: DenseDataset, *, threshold: float) -> None:
        super().__init__(predictor, recipe, split, threshold=threshold)
        self.metric = depth_scoring(recipe, split)()

    def compare(
        self, pixels: Tensor, target: Tensor, prediction: DepthMap, name: str
    ) -> tuple[float, str, Callable[[], RgbImage]]:
        metres = self.metric.metres(torch.from_numpy(prediction.depth), target)
        valid = self.metric.valid(target)
        relative = float(((metres - target).abs() / target)[valid].mean()) if bool(valid.any()) else math.nan
        verdict = f"AbsRel {relative:.3f}" if math.isfinite(relative) else "no true depth"
        return -relative, verdict, partial(depth_comparison, pixels, target, metres.numpy(), self.metric)
