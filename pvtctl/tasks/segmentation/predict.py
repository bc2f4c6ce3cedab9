"""Prediction with a trained segmentation model on images outside a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import RgbImage, to_rgb
from pvtctl.io.names import plural
from pvtctl.models.dense import DenseModel
from pvtctl.tasks.base import PredictionRequest
from pvtctl.tasks.dense.inference import LabelInference
from pvtctl.tasks.dense.predict import DensePredictor, MapsWriter, asked_sides
from pvtctl.tasks.predict import save_picture
from pvtctl.tasks.segmentation.settings import SegmentationData
from pvtctl.tasks.segmentation.transforms import SegmentationTransform
from pvtctl.weights.build import model_from_checkpoint

MOST_CLASSES = 12
"""Rows of the table of classes."""


@dataclass(frozen=True)
class LabelMap:
    """Predicted label map of one image."""

    labels: NDArray[Any]
    """uint8 (H, W), at the image's own size: indices of `class_names`."""
    class_names: list[str]


class SegmentationPredictor(DensePredictor):
    """A checkpoint's segmentation model; `class_names` (K), and `palette` if the checkpoint has one."""

    transform: SegmentationTransform

    def __init__(self, request: PredictionRequest, model: DenseModel | None = None) -> None:
        """`model`: the checkpoint's, if it is built already. Raises UsageError for weights that do not fit."""
        super().__init__(request)
        checkpoint, options = request.checkpoint, request.options
        found = checkpoint.dense
        assert found is not None
        self.class_names = found.class_names or [f"class {label}" for label in range(found.num_classes)]
        self.palette = checkpoint.meta.palette or None
        tested = SegmentationData.from_meta(checkpoint.meta.segmentation)
        if sides := asked_sides(options.get("short_side"), options.get("long_side")):
            tested = tested.model_copy(update={"test_short_side": sides[0], "test_long_side": sides[1]})
        self.transform = SegmentationTransform(tested, self.normalization)
        self.model = model or cast("DenseModel", model_from_checkpoint(checkpoint))
        self.runnable = request.runnable(self.model)
        self.inference = LabelInference(self.model, self.testing.window)

    @property
    def tested_at(self) -> str:
        return f"a short side of {self.transform.settings.test_short_side} (long side up to {self.transform.settings.test_long_side})"

    def __call__(self, pixels: Tensor) -> LabelMap:
        """uint8 (3, H, W) -> labels (H, W)."""
        return LabelMap(self.predict_map(pixels), self.class_names)

    def in_words(self, prediction: LabelMap, threshold: float) -> str:
        return plural(len(np.unique(prediction.labels)), "class")

    def picture(self, image: RgbImage, prediction: LabelMap) -> RgbImage:
        from pvtctl.tasks.segmentation.pictures import draw_label_overlay
        from pvtctl.views.class_colours import class_colours

        colours = class_colours(len(self.class_names), self.palette)
        return draw_label_overlay(image, prediction.labels, self.class_names, colours)


class LabelsWriter(MapsWriter):
    """`pvtctl predict` with a segmentation model."""

    task = "segmentation"

    @property
    def what(self) -> str:
        return plural(len(self.predictor.class_names), "class")

    def write(self, pixels: Tensor, found: NDArray[Any], stem: Path) -> dict[str, Path]:
        """`NAME.png`, the label map with its palette, and `NAME_view.png` over the image."""
        from pvtctl.tasks.segmentation.pictures import draw_label_overlay, write_label_map
        from pvtctl.views.class_colours import class_colours

        names = self.predictor.class_names
        colours = class_colours(len(names), self.predictor.palette)
        files = {"labels": stem.with_name(f"{stem.name}.png"), "view": stem.with_name(f"{stem.name}_view.png")}
        write_label_map(files["labels"], found, colours)
        save_picture(draw_label_overlay(to_rgb(pixels), found, names, colours), files["view"])
        return files

    def summary(self, found: NDArray[Any]) -> dict[str, Any]:
        """Shares of the classes."""
        names = self.predictor.class_names
        counts = torch.from_numpy(found).flatten().bincount(minlength=len(names)).numpy()
        shares = {names[label]: round(float(counts[label] / found.size), 5) for label in np.argsort(-counts)}
        return {"classes": {name: share for name, share in shares.items() if share}}

    def about(self) -> dict[str, Any]:
        return {"classes": self.predictor.class_names}

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        total = sum(entry["height"] * entry["width"] for entry in self.entries.values())
        pixels: dict[str, float] = {}
        images: dict[str, int] = {}
        for entry in self.entries.values():
            for name, share in entry["classes"].items():
                pixels[name] = pixels.get(name, 0.0) + share * entry["height"] * entry["width"]
                images[name] = images.get(name, 0) + 1
        most = sorted(pixels, key=pixels.__getitem__, reverse=True)
        rows: list[list[Any]] = [
            [name, f"{100 * pixels[name] / total:.1f}", images[name]] for name in most[:MOST_CLASSES]
        ]
        return f"{plural(len(most), 'class')} in {len(self)} images", ["class", "pixels, %", "images"], rows

    def remark(self) -> str | None:
        """Number of classes left out of the table."""
        left = len({name for entry in self.entries.values() for name in entry["classes"]}) - MOST_CLASSES
        return f"and {left} more classes (--json lists all)" if left > 0 else None
