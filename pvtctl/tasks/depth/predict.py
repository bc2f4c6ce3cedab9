"""Prediction with a trained depth model on images outside a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pvtctl.data.images import RgbImage
from pvtctl.io.names import plural
from pvtctl.models.dense import DenseModel
from pvtctl.tasks.base import PredictionRequest
from pvtctl.tasks.dense.inference import DepthInference
from pvtctl.tasks.dense.predict import DensePredictor, MapsWriter
from pvtctl.tasks.depth.settings import DepthData
from pvtctl.tasks.depth.transforms import DepthTransform
from pvtctl.weights.build import model_from_checkpoint

_UNITS = {"metres": "metres", "inverse": "inverse depth, without a unit"}


@dataclass(frozen=True)
class DepthMap:
    """Predicted depth of one image."""

    depth: NDArray[Any]
    """float32 (H, W), at the image's own size, in `space`."""
    space: Literal["metres", "inverse"]
    """`inverse`: larger is nearer, without a unit, for weights without a scale."""


class DepthPredictor(DensePredictor):
    """A checkpoint's depth model; `space` is that of its maps."""

    transform: DepthTransform

    def __init__(self, request: PredictionRequest, model: DenseModel | None = None) -> None:
        """`model`: the checkpoint's, if it is built already. Raises UsageError for weights that do not fit."""
        super().__init__(request)
        checkpoint = request.checkpoint
        assert checkpoint.dense is not None
        scale_shift = request.scale_shift or checkpoint.dense.scale_shift
        self.space: Literal["metres", "inverse"] = "inverse" if scale_shift is None else "metres"
        self.class_names = []
        tested = DepthData.from_meta(checkpoint.meta.depth)
        if size := request.options.get("size"):
            tested = tested.model_copy(update={"test_size": size})
        self.transform = DepthTransform(tested)
        self.model = model or cast("DenseModel", model_from_checkpoint(checkpoint, scale_shift=scale_shift))
        self.runnable = request.runnable(self.model)
        self.inference = DepthInference(self.model, self.testing.window)

    @property
    def tested_at(self) -> str:
        return "about {}x{} pixels".format(*self.transform.settings.test_size)

    def __call__(self, pixels: Tensor) -> DepthMap:
        """uint8 (3, H, W) -> depth (H, W)."""
        return DepthMap(self.predict_map(pixels), self.space)

    def in_words(self, prediction: DepthMap, threshold: float) -> str:
        if prediction.space == "inverse":
            return "inverse depth, without a unit"
        low, high = np.quantile(prediction.depth, [0.01, 0.99])
        return f"{low:.1f} to {high:.1f} m"

    def picture(self, image: RgbImage, prediction: DepthMap) -> RgbImage:
        from pvtctl.tasks.depth.pictures import draw_beside

        return draw_beside(image, prediction.depth, prediction.space)


class DepthWriter(MapsWriter):
    """`pvtctl predict` with a depth model."""

    task = "depth"

    @property
    def what(self) -> str:
        return f"depth in {_UNITS[self.predictor.space]}"

    def write(self, pixels: Tensor, found: NDArray[Any], stem: Path) -> dict[str, Path]:
        """`NAME.png` (16 bits), `NAME.npy` and `NAME_view.png`."""
        from pvtctl.tasks.depth.pictures import write_depth

        return write_depth(stem.parent, stem.name, found, space=self.predictor.space)

    def summary(self, found: NDArray[Any]) -> dict[str, Any]:
        """The range of the depth."""
        low, middle, high = (float(value) for value in np.quantile(found, [0.01, 0.5, 0.99]))
        return {"depth": {"percentile_1": low, "median": middle, "percentile_99": high}}

    def about(self) -> dict[str, Any]:
        return {"space": self.predictor.space}

    def table(self) -> tuple[str, list[str], list[list[Any]]]:
        rows = [[name, *(f"{value:.3g}" for value in entry["depth"].values())] for name, entry in self.entries.items()]
        unit = "m" if self.predictor.space == "metres" else "inverse, no unit"
        title = f"Depth ({unit}) of {plural(len(rows), 'image')}"
        return title, ["image", "1st percentile", "median", "99th percentile"], rows
