"""Report of a depth metric: pictures, tables and the JSON document."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pvtctl.data.images import BadImage
from pvtctl.io.files import write_text
from pvtctl.recipe.schema import Recipe
from pvtctl.tasks.base import ComparedImage, Predictor
from pvtctl.tasks.dense.data import DenseDataset
from pvtctl.tasks.depth.build import depth_scoring
from pvtctl.tasks.depth.metric import DISTANCES, LONGEST_MAP, NUMBERS, DepthMetric
from pvtctl.tasks.depth.predict import DepthMap
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

        drawn: dict[str, Path] = {}
        if self.samples:
            sheet = draw_depth_samples(folder / "depth.png", self.dataset, self.samples, self.metric)
            drawn["Sample images: truth, prediction and error"] = sheet
        if tiles := self._worst():
            drawn["The worst images, by abs_rel"] = _draw_rows(folder / "worst.png", tiles)
        measured, distances = self.metric.describe(), self.metric.distances()
        return drawn | {
            "Error by distance": draw_error_by_distance(folder / "error_by_distance.png", distances, measured),
            "True and predicted distances": draw_depth_histogram(folder / "distances.png", distances, measured),
            "Errors of single images": draw_image_errors(folder / "image_errors.png", self.metric.rows(), measured),
        }

    def _worst(self) -> dict[str, Any]:
        """Title -> picture of the images with the largest errors, whose predictions the metric kept."""
        errors = {int(row["index"]): row for row in self.metric.worst(len(self.metric.worst_maps))}
        tiles = {}
        for index, metres in self.metric.worst_maps.items():
            try:
                pixels, target = self.dataset.read(index)
            except (BadImage, OSError):
                continue
            name = self.dataset.source.name(int(self.dataset.kept[index]))
            row = errors[index]
            title = f"{name}: abs_rel {row['abs_rel']:.3f}, delta1 {row['delta1']:.3f}, {row['pixels']} pixels scored"
            tiles[title] = depth_comparison(pixels, target, metres.astype(np.float32), self.metric)
        return tiles

    def tables(self) -> list[ReportTable]:
        """The worst images."""
        rows = [[str(cell) for cell in row] for row in self._rows(REPORT_ROWS)]
        return [ReportTable("Images, worst first", self._columns(), rows)]

    def terminal(self) -> tuple[str, list[str], list[list[Any]]]:
        """The worst images: title, columns, rows."""
        rows, images = self._rows(MOST_ROWS), len(self.metric.rows())
        title = "Images, worst first" if len(rows) == images else f"The {len(rows)} worst of {images} images"
        return title, self._columns(), rows

    def _columns(self) -> list[str]:
        return ["image", "pixels", "abs_rel", "rmse, m", "log10", "silog", "delta1", "delta2"]

    def _rows(self, count: int) -> list[list[Any]]:
        names = ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2")
        return [
            [
                self.dataset.source.name(int(self.dataset.kept[row["index"]])),
                int(row["pixels"]),
                *(f"{row[name]:.3f}" for name in names),
            ]
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
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "pixels", *NUMBERS])
        for row in self.metric.rows():
            name = self.dataset.source.name(int(self.dataset.kept[row["index"]]))
            writer.writerow([name, int(row["pixels"]), *(f"{float(row[number]):.6g}" for number in NUMBERS)])
        write_text(folder / "per_image.csv", text.getvalue())
        return {"per image": folder / "per_image.csv"}


def draw_depth_samples(
    path: Path, dataset: DenseDataset, samples: Mapping[int, NDArray[Any]], metric: DepthMetric
) -> Path:
    """Write a sheet of a few validation images: image, ground truth, prediction and error, each pair on one scale.

    `samples` are a task's outputs by position in the split, float16 (H, W) metres or inverse depth; `metric` aligns them
    as it would score them. Images that cannot be read are left out.
    """
    tiles = {}
    for at, output in sorted(samples.items()):
        try:
            pixels, target = dataset.read(at)
        except (BadImage, OSError):
            continue
        metres = metric.metres(torch.from_numpy(output.astype(np.float32)), target)
        tiles[dataset.source.name(int(dataset.kept[at]))] = depth_comparison(pixels, target, metres.numpy(), metric)
    return _draw_rows(path, tiles)


def depth_comparison(
    pixels: torch.Tensor, target: torch.Tensor, metres: NDArray[np.float32], metric: DepthMetric
) -> Any:
    """The four pictures of an image; a thinned prediction is compared with the ground truth at the same pixels."""
    from pvtctl.tasks.depth.pictures import draw_depth_comparison

    step = 1 if target.shape == metres.shape else -(-max(target.shape) // LONGEST_MAP)
    truth, scored = target[::step, ::step], metric.valid(target)[::step, ::step]
    image = pixels.permute(1, 2, 0).contiguous().numpy()
    return draw_depth_comparison(image, truth.numpy(), metres, scored.numpy())


def _draw_rows(path: Path, tiles: Mapping[str, Any]) -> Path:
    """A sheet with one comparison a row, at the size that they were drawn at."""
    from pvtctl.views.sheet import draw_sheet

    path.parent.mkdir(parents=True, exist_ok=True)
    width = next(iter(tiles.values())).shape[1] if tiles else 640
    return draw_sheet(path, tiles, columns=1, width=width)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


class DepthComparer:
    """Depth next to the ground truth of a split; images are ranked by AbsRel, aligned as in the recipe's `eval`."""

    def __init__(self, predictor: Predictor, recipe: Recipe, split: DenseDataset, *, threshold: float) -> None:
        self.predictor, self.split, self.names = predictor, split, split.ids
        self.metric = depth_scoring(recipe, split)()

    def __call__(self, index: int) -> ComparedImage:
        from pvtctl.views.sheet import captioned, write_picture

        pixels, target = self.split.read(index)
        prediction: DepthMap = self.predictor(pixels)
        metres = self.metric.metres(torch.from_numpy(prediction.depth), target)
        valid = self.metric.valid(target)
        relative = float(((metres - target).abs() / target)[valid].mean()) if bool(valid.any()) else math.nan
        name = self.names[index]
        verdict = f"AbsRel {relative:.3f}" if math.isfinite(relative) else "no true depth"

        def draw(path: Path) -> None:
            drawn = depth_comparison(pixels, target, metres.numpy(), self.metric)
            write_picture(path, captioned(drawn, f"{name}: {verdict}"))

        return ComparedImage(name, -relative, verdict, draw)
